"""The Square attack (Andriushchenko et al. 2020, arXiv:1912.00049): random search over squares, by scores alone."""

from dataclasses import dataclass

import torch

from casemate import rng
from casemate.attacks.squares import N_PLACES, squares_for
from casemate.attacks.standing import Standing, excess
from casemate.errors import CasemateError
from casemate.gradients import Classifier
from casemate.losses import Labels
from casemate.threat import Images, Threat

# Section 3: of 10,000 queries, those after which the share of an image's pixels in a square is halved.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
SCHEDULED = 10_000
# Random numbers are drawn for so many queries at a time: the draw of a single query costs more than its use.
QUERIES_AT_ONCE = 50


@dataclass(frozen=True)
class Square:
    """Change one random square at a time and keep what raises the margin loss (algorithm 1), without gradients.

    The changes are those of algorithm 2 in linf, of algorithm 3 in l2, and of algorithm 3 made for l1 by Croce and Hein
    2021 (arXiv:2103.01208) in l1; `casemate.attacks.squares` says where they depart from these. A square has the share
    `p_init` of an image's pixels at first, and half of that again after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and
    8000 of 10,000 queries; with another number of queries this schedule is stretched to it, as in the paper. `p_init`
    0.8 and 5,000 queries are what AutoAttack runs (Croce and Hein 2020), which leaves the schedule unstretched.

    An image leaves once it is broken; no draw of an image depends on another. Returns for each image the first point
    found that the classifier gets wrong, else the point of largest margin loss. Cost: one forward pass for the clean
    check, then `n_queries` for an image that stands, and one more for an image that falls. Raises `CasemateError` for
    a threat model that is not linf, l2 or l1.
    """

    n_queries: int = 5000
    p_init: float = 0.8

    def __post_init__(self) -> None:
        if self.n_queries < 1:
            raise CasemateError(f"Square needs at least 1 query, not {self.n_queries}")
        if not 0 < self.p_init <= 1:
            raise CasemateError(f"p_init of Square is a share of an image's pixels in (0, 1], not {self.p_init}")

    def __call__(self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys) -> Images:
        squares = squares_for(threat)
        standing = Standing(model, x, y, keys=keys)
        if not standing:
            return standing.best
        at = standing.index
        # Everything below is about the standing images alone. The walk begins at its start even where the image itself
        # has a larger loss, so that its point and the best one are not the same.
        x_adv, y_at, keys_at, anchors = x[at], y[at], keys[at], squares.anchors(x[at])
        found = torch.full_like(standing.clean_logits[at, 0], -torch.inf)
        for query in range(self.n_queries):
            turn = query % QUERIES_AT_ONCE
            if turn == 0:
                draws = rng.uniform(rng.fold(keys_at, "squares", query), (QUERIES_AT_ONCE, N_PLACES + x.shape[1]))
            if query == 0:
                proposal = squares.start(anchors, rng.fold(keys_at, "start"))
            else:
                proposal = squares.moved(x_adv, anchors, self.share(query), draws[:, turn])
            asked = excess(standing.engine.logits(proposal, keys=keys_at), y_at)
            better = asked > found
            x_adv = torch.where(better[:, None, None, None], proposal, x_adv)
            found = torch.where(better, asked, found)
            is_last = query + 1 == self.n_queries
            if is_last or bool((found > 0).any()):
                # On the way those alone that may be broken: what is kept of an image must not depend on the others.
                worth_keeping = found if is_last else torch.where(found > 0, found, -torch.inf)
                still = standing.record(threat.project(x_adv, x[standing.index]), worth_keeping)
                if not standing:
                    break
                x_adv, y_at, keys_at, draws = x_adv[still], y_at[still], keys_at[still], draws[still]
                anchors = tuple(images[still] for images in anchors)
                # What the second question denied is no success to compare with.
                found = found[still].clamp(max=0)
        return standing.best

    def share(self, query: int) -> float:
        """The share p of an image's pixels in the square that this query, of the `n_queries` from 0, is about."""
        scheduled = query * SCHEDULED // self.n_queries
        return self.p_init / 2 ** sum(scheduled > halving for halving in HALVINGS)
