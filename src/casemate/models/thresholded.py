"""A network for MNIST in linf whose first layer is given the thresholds that adversarial training finds."""

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn

from casemate.classifier import Images
from casemate.errors import CasemateError
from casemate.models.small import fast_at
from casemate.sizes import at_least

# Any slope will do where attacks take signs; this one is small beside that of the ramp.
LEAK = 0.01


class Ramp(nn.Module):
    """0 up to `eps`, 1 from 1 - `eps`, a straight line between: black and white stay so under any change of `eps`.

    Its gradient is 0 off the line, also at pixels that a larger change would bring onto it, so it declares a surrogate
    that leans a little everywhere (BPDA). Raises `CasemateError` for an eps outside [0, 0.5).
    """

    stochastic = False

    def __init__(self, eps: float) -> None:
        super().__init__()
        if not 0 <= eps < 0.5:
            raise CasemateError(f"the thresholds eps and 1 - eps must be apart: eps is in [0, 0.5), not {eps}")
        self.eps = eps

    def forward(self, x: Images) -> Images:
        return self._ramp(x)

    def surrogate(self, x: Images) -> Float[Tensor, "batch channel height width"]:
        return self._ramp(x) + LEAK * x

    def _ramp(self, x: Images) -> Images:
        return ((x - self.eps) / (1 - 2 * self.eps)).clamp(0, 1)

    def extra_repr(self) -> str:
        return f"eps={self.eps:g}"


def thresholded(eps: float = 0.3, width: int = 16, n_classes: int = 10) -> nn.Sequential:
    """Madry et al. 2018 (arXiv:1706.06083), appendix E: their thresholds, before the network of Fast AT.

    Images [N, 1, 28, 28] in [0, 1], not normalised. The paper's robust MNIST network uses 3 of its 32 first filters,
    which are thresholds; here a `Ramp` is there from the start and `fast_at` of this `width` follows. Four in five
    pixels of MNIST are exactly 0, and an adversary in linf at `eps` can do nothing there any more. It says something
    about MNIST and this threat model, and is no defence for other images: see the paper's own caution on l2.
    Width 16 has 166,406 parameters.
    """
    at_least(1, width=width)
    at_least(2, n_classes=n_classes)
    return nn.Sequential(OrderedDict[str, nn.Module](ramp=Ramp(eps), network=fast_at(width, n_classes)))
