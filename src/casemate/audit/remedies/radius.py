"""How far a threat model lets a pixel value move, whatever its norm."""

import torch

from casemate.threat import Images, Linf, Threat


def linf_radius(threat: Threat, x: Images) -> float:
    """How far a pixel value moves in this threat model where all move alike; x [n, C, H, W] are any images of it."""
    if isinstance(threat, Linf):
        return threat.eps
    offset = torch.ones_like(x[:1])
    return float(threat.eps / threat.measure(x[:1] + offset, x[:1])[0])
