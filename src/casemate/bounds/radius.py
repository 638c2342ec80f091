"""The largest radius at which a certifier still proves an image, by bisection."""

from dataclasses import dataclass

import torch
from torch import nn

from casemate.bounds.certificate import Certificate, Certifier
from casemate.errors import CasemateError
from casemate.losses import Labels
from casemate.rng import Keys
from casemate.threat import Images, Threat, with_eps


@dataclass(frozen=True)
class Bisection:
    """A certifier that goes on where another does not prove the whole threat model, at smaller and smaller parts.

    The radius is the largest multiple of eps / 2^`halvings` that bisection meets, and was itself proved: no certifier
    has to prove less at every larger radius for it to be true. `holds` and `margin` are those of the whole. Costs up
    to 1 + `halvings` calls an image.
    """

    certifier: Certifier
    halvings: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.halvings <= 30:
            raise CasemateError(f"bisection takes 1 to 30 halvings, not {self.halvings}")

    def certify(
        self, model: nn.Module, x: Images, y: Labels, threat: Threat, *, keys: Keys | None = None
    ) -> Certificate:
        """See `Certifier`; raises `CasemateError` for a threat model that is none of linf, l2 and l1."""
        whole = self.certifier.certify(model, x, y, threat, keys=keys)
        n = 2**self.halvings
        # In steps of eps / n, and exact: what is proved, and what is not.
        proved = torch.where(whole.holds, n, 0)
        failed = torch.full_like(proved, n)
        for _ in range(self.halvings):
            middle = (proved + failed) // 2
            for step in middle[~whole.holds].unique().tolist():
                at = ((middle == step) & ~whole.holds).nonzero().squeeze(1)
                smaller = with_eps(threat, threat.eps * step / n)
                part = self.certifier.certify(model, x[at], y[at], smaller, keys=None if keys is None else keys[at])
                proved[at] = torch.where(part.holds, step, proved[at])
                failed[at] = torch.where(part.holds, failed[at], step)
        return Certificate(whole.holds, whole.margin, threat.eps * proved.double() / n, whole.confidence)
