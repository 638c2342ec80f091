"""What a certifier answers."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float64
from torch import Tensor, nn

from casemate.losses import Labels
from casemate.rng import Keys
from casemate.threat import Images, Threat


@dataclass(frozen=True, eq=False)
class Certificate:
    """For n images: whether no image inside the threat model is classified other than as the label.

    `margin` is a lower bound of the logit of the label minus the best other one over the whole threat model. `radius`
    is the eps of the threat model where the certificate `holds`, and 0 elsewhere. `confidence` is 1 for a proof.
    """

    holds: Bool[Tensor, "batch"]
    margin: Float64[Tensor, "batch"]
    radius: Float64[Tensor, "batch"]
    confidence: float = 1.0


@runtime_checkable
class Certifier(Protocol):
    """Proves, or says nothing: an image without a certificate may be robust all the same."""

    def certify(
        self, model: nn.Module, x: Images, y: Labels, threat: Threat, *, keys: Keys | None = None
    ) -> Certificate:
        """Certificates for images x with labels y, which are never given to a misclassified one.

        `keys` are for certifiers that draw. Raises `CasemateError` for a classifier or a threat model that the
        certifier knows nothing about.
        """
        ...
