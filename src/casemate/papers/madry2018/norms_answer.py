"""The answer to the question about linf and l2 radii: every number and turn of phrase from the facts."""

import math

import polars as pl

from casemate.papers.evaluation import CHANCE
from casemate.papers.madry2018.norms_facts import EPS, Facts
from casemate.papers.madry2018.numbers import percent, ratio
from casemate.papers.madry2018.pair import NATURAL
from casemate.papers.madry2018.radii import SAME_NUMBER

# The paper's radius, about which the answer is.
AT = EPS[-1]
# Gains whose ratio is at most this are as large as each other.
ALIKE = 1.1


def on_radii(found: Facts) -> str:
    """Is it fair to compare linf and l2 radii as they are?

    A pair of radii would be a fair one if every network left about as many images standing at the one as at the other.
    """
    return " ".join([_verdict(found), _same_number(found), _lengths(found), _closest(found), _gains(found)])


def _verdict(found: Facts) -> str:
    fair = [match for match in found.radii[AT] if found.apart(AT, match)[0] <= CHANCE]
    if SAME_NUMBER in fair:
        return "By these networks it is."
    if fair:
        return f"Not as they are, but by this match: {fair[0]}."
    return "No, and none of the matches makes it so."


def _same_number(found: Facts) -> str:
    pair = found.pair(NATURAL, AT, SAME_NUMBER)
    return (
        f"At the same number, {AT:g}, the {NATURAL} network leaves {percent(pair['linf'])} of the images standing in "
        f"linf and {percent(pair['l2'])} in l2."
    )


def _lengths(found: Facts) -> str:
    lengths = (f"{radius:.2f} ({match})" for match, radius in found.radii[AT].items() if match != SAME_NUMBER)
    return f"The l2 lengths that match linf {AT:g} by geometry are {', '.join(lengths)}."


def _closest(found: Facts) -> str:
    match = min(found.radii[AT], key=lambda match: found.apart(AT, match)[0])
    (apart, network), radius = found.apart(AT, match), found.radii[AT][match]
    pair = found.pair(network, AT, match)
    return (
        f"Of the matches, {match} (l2 {radius:.2f}) is the one at which the networks stand most alike; they differ by "
        f"up to {100 * apart:.0f} points there: {network} leaves {percent(pair['linf'])} in linf and "
        f"{percent(pair['l2'])} in l2."
    )


def _gains(found: Facts) -> str:
    natural, trained = found.of(NATURAL), [found.of(network) for network in found.networks if network != NATURAL]
    gains = (f"{row['network']} {ratio(row['linf_gain'])} and {ratio(row['l2_gain'])}" for row in trained)
    return (
        f"Median smallest changes over those of the {NATURAL} network ({natural['linf']:.3g} in linf, "
        f"{natural['l2']:.3g} in l2) have no units and may be compared; they are in linf and l2: {', '.join(gains)}. "
        f"{_favoured(found)}"
    )


def _favoured(found: Facts) -> str:
    """In which norm each network gains more."""
    favoured: dict[str, list[str]] = {"more in linf": [], "more in l2": [], "as much in both": []}
    for row in found.summary.filter(pl.col("network") != NATURAL).iter_rows(named=True):
        relative = row["linf_gain"] / row["l2_gain"]
        if not math.isnan(relative):
            kind = "more in linf" if relative > ALIKE else "more in l2" if relative < 1 / ALIKE else "as much in both"
            favoured[kind].append(row["network"])
    told = {kind: names for kind, names in favoured.items() if names}
    if not told:
        return "In which norm a network gains more cannot be told by these."
    if all(kind == f"more in {name.partition(':')[0]}" for kind, names in told.items() for name in names):
        return "Each network gains more in the norm that it was trained on."
    listed = (f"{kind} for {' and '.join(names)}" for kind, names in told.items())
    return f"The gain is {', '.join(listed)}."
