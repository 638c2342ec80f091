"""Local intrinsic dimensionality as a detector (Ma et al., ICLR 2018, arXiv:1801.02613)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from casemate.classifier import Images
from casemate.errors import CasemateError
from casemate.sizes import at_least

Points = Float[Tensor, "batch values"]


class LID(nn.Module):
    """A classifier with a rejection score: how adversarial the local dimensions of its activations look.

    Section 4 of the paper with its settings: for the output of each of `layers` (names of modules of `classifier`) the
    dimension around an image is estimated from its `n_neighbours` nearest among a minibatch of clean images,
    `reference` [100, C, H, W] there; a logistic regression on these features, scaled to [0, 1], is fitted to tell
    adversarial images from clean and from noisy ones (`fit`). The minibatch is fixed here, so that the score of an
    image does not depend on others.

    `forward` is the classifier, which an attack may ignore the detector for: confident adversarial images of plain PGD
    pass it (Athalye et al. 2018, section 5.1.2). Raises `CasemateError` for layers that the classifier has not, and
    where `reference` holds fewer than `n_neighbours` images.
    """

    stochastic = False
    surrogate = None

    reference: Tensor
    low: Tensor
    width: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(
        self, classifier: nn.Module, layers: Sequence[str], reference: Images, *, n_neighbours: int = 20
    ) -> None:
        super().__init__()
        at_least(2, n_neighbours=n_neighbours)
        known = {name for name, _ in classifier.named_modules()}
        absent = [name for name in layers if name not in known]
        if absent or not layers:
            raise CasemateError(
                f"{type(classifier).__name__} has no layer {absent[0]!r}"
                if absent
                else "a detector needs at least one layer"
            )
        if len(reference) < n_neighbours:
            raise CasemateError(f"{len(reference)} reference images have no {n_neighbours} neighbours to measure by")
        self.classifier = classifier
        self.layers = tuple(layers)
        self.n_neighbours = n_neighbours
        self.register_buffer("reference", reference.clone())
        for name in ("low", "weight"):
            self.register_buffer(name, torch.zeros(len(layers)))
        self.register_buffer("width", torch.ones(len(layers)))
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, x: Images) -> Float[Tensor, "batch classes"]:
        return self.classifier(x)

    def dimensions(self, x: Images) -> Float[Tensor, "batch layers"]:
        """The local dimension around each of the images [N, C, H, W] in each layer; differentiable."""
        found = zip(self._activations(x), self._activations(self.reference), strict=True)
        return torch.stack([local_dimension(here, there, self.n_neighbours) for here, there in found], dim=1)

    def score(self, x: Images) -> Float[Tensor, "batch"]:
        """The log-odds of being adversarial, [N], larger for more suspicious; 0 for all before `fit`."""
        return (self.dimensions(x) - self.low) / self.width @ self.weight + self.bias

    @torch.no_grad()
    def fit(self, clean: Images, noisy: Images, adversarial: Images) -> "LID":
        """Fit the scale and the regression to images [N, C, H, W] of the three kinds; returns itself.

        Logistic regression with an l2 penalty of 1/2 |w|^2 beside the summed loss. The paper's adversarial images are
        those of Carlini and Wagner in l2, its noisy ones as far away in l2.
        """
        features = torch.cat([self.dimensions(images) for images in (clean, noisy, adversarial)])
        self.low = features.amin(dim=0)
        self.width = (features.amax(dim=0) - self.low).clamp(min=1e-6)
        is_adversarial = torch.arange(len(features), device=features.device) >= len(clean) + len(noisy)
        weight, bias = _regression(((features - self.low) / self.width).double(), is_adversarial.double())
        self.weight, self.bias = weight.float(), bias.float()
        return self

    def extra_repr(self) -> str:
        return f"layers={list(self.layers)}, n_neighbours={self.n_neighbours}"

    def _activations(self, x: Images) -> list[Points]:
        found: dict[str, Points] = {}
        hooks = []
        for name in self.layers:

            def keep(module: nn.Module, inputs: object, output: Tensor, name: str = name) -> None:
                found[name] = output.flatten(1)

            hooks.append(self.classifier.get_submodule(name).register_forward_hook(keep))
        try:
            self.classifier(x)
        finally:
            for hook in hooks:
                hook.remove()
        return [found[name] for name in self.layers]


def local_dimension(points: Points, reference: Points, n_neighbours: int = 20) -> Float[Tensor, "batch"]:
    """-k / sum over i <= k of log(r_i / r_k) with the distances r_1 <= ... <= r_k to the k nearest in `reference`.

    The estimator of Amsaleg et al. 2015 as equation 4 of the paper has it. A point at distance 0 is taken for the point
    itself and left out. Within a neighbourhood of constant density in d dimensions it is d k / (k - 2) in the mean.
    """
    apart = torch.cdist(points, reference, compute_mode="donot_use_mm_for_euclid_dist")
    apart = torch.where(apart > 0, apart, torch.inf)
    nearest = apart.topk(n_neighbours, dim=1, largest=False).values
    ratios = (nearest / nearest[:, -1:]).log().sum(dim=1)
    # Equidistant neighbours have no dimension; the bound keeps it finite.
    return -n_neighbours / ratios.clamp(max=-1e-6)


def _regression(
    features: Float64[Tensor, "n layers"], positive: Float64[Tensor, "n"]
) -> tuple[Float64[Tensor, "layers"], Float64[Tensor, ""]]:
    weight = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, device=features.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        odds = features @ weight + bias
        total = nn.functional.binary_cross_entropy_with_logits(odds, positive, reduction="sum")
        total = total + weight.square().sum() / 2
        total.backward()
        return total

    with torch.enable_grad():
        optimiser.step(loss)
    return weight.detach(), bias.detach()
