"""How long an linf change is in l2: the radii of l2 balls that may be called as large as an linf ball, in closed form.

|d|_inf <= |d|_2 <= sqrt(n) |d|_inf on n values, and between the two each way of matching balls has a point of its own:
none of them says that the two are equally hard to resist.
"""

import math
from collections.abc import Callable

import torch

from casemate.threat import Distances, Images

Match = Callable[[float, int], float]


def same_number(eps: float, n: int) -> float:
    """What a reader does who compares the radii as they are."""
    return eps


def typical(eps: float, n: int) -> float:
    """The root mean square l2 norm of a uniform point of the cube; its spread is eps / sqrt(15), whatever n is."""
    return eps * math.sqrt(n / 3)


def equal_volume(eps: float, n: int) -> float:
    """That of the l2 ball with the volume of the cube, (2 eps)^n; about 0.484 eps sqrt(n) for large n."""
    return 2 * eps / math.sqrt(math.pi) * math.exp(math.lgamma(n / 2 + 1) / n)


def corner(eps: float, n: int) -> float:
    """The l2 norm of a corner of the cube, where FGSM ends but for the pixel box."""
    return eps * math.sqrt(n)


SAME_NUMBER, WITHIN_BOX = "same number", "typical point within the pixel box"
MATCHES: dict[str, Match] = {
    SAME_NUMBER: same_number,
    "typical point of the cube": typical,
    "equal volume": equal_volume,
    "corner of the cube": corner,
}


def within_box(x: Images, eps: float) -> Distances:
    """The root mean square l2 distance of each image from the points that `Linf(eps).sample` draws around it.

    As `typical`, where no value of the image is nearer than eps to the ends of [0, 1]; a value that is at one of them
    can move one way only. A fact about the images and not about the network.
    """
    v = x.double().flatten(1)
    room = torch.stack([v, 1 - v]).clamp(max=eps)
    # The integral of min(u, room)^2 over u from 0 to eps, once for each way.
    square = room.pow(3) / 3 + (eps - room) * room.square()
    return (square.sum(dim=(0, 2)) / (2 * eps)).sqrt()


def matched(x: Images, eps: float) -> dict[str, float]:
    """Every l2 radius for the linf radius `eps`, by the name of its match; that of the box is a mean over images."""
    n = x[0].numel()
    return {name: match(eps, n) for name, match in MATCHES.items()} | {WITHIN_BOX: float(within_box(x, eps).mean())}
