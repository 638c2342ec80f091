"""Numbers and verdicts in words, the same way on every page."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

VERDICTS = ("certified", "unresolved", "broken", "misclassified")
MEANING = {
    "certified": "proved: no image inside the threat model changes the prediction",
    "unresolved": "neither proved nor broken with this budget",
    "broken": "right, until an adversarial image inside the threat model was found",
    "misclassified": "wrong without any attack",
}


def percent(share: float) -> str:
    """One decimal, and more where rounding would turn nearly all into all or nearly none into none."""
    for decimals in (1, 2, 3, 4):
        text = f"{100 * share:.{decimals}f}"
        if float(text) not in (0, 100) or share in (0, 1):
            return f"{text}%"
    return f"{100 * share:g}%"


def count(number: int) -> str:
    return f"{number:,}"


def images(number: int) -> str:
    return f"{number:,} image" if number == 1 else f"{number:,} images"


def seconds(duration: float) -> str:
    if duration < 99.95:
        return f"{tenths(duration)} s"
    minutes, rest = divmod(round(duration), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def tenths(number: float) -> str:
    """One decimal, and what there is of smaller ones."""
    return f"{number:.2g}" if 0 < number < 0.1 else f"{number:,.1f}"


def rate(number: int, duration: float) -> str:
    """`number` per second; a dash where no time was measured."""
    if duration <= 0:
        return "–"
    per_second = number / duration
    return "0" if per_second == 0 else f"{per_second:.2g}" if per_second < 10 else f"{per_second:,.0f}"


def decimal(number: float | None, digits: int = 3) -> str:
    """At most `digits` decimals; a dash for what is absent."""
    if number is None:
        return "–"
    if not math.isfinite(number):
        return str(number)
    text = f"{number:.{digits}f}".rstrip("0").rstrip(".")
    return f"{number:.2g}" if number and float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def breakable(name: str) -> Markup:
    """A path or dotted name that may be broken into lines where one would break it by hand."""
    return Markup("<wbr>").join(re.split(r"(?<=[/._:])", name))


def finding(summary: Mapping[str, Any]) -> str:
    """The verdict on the whole run, in one sentence. It tells what was found and never says what cannot be known."""
    n, verdicts = summary["n"], summary["verdicts"]
    standing = verdicts["certified"] + verdicts["unresolved"]
    if standing == 0:
        return "A failure was found for the one image." if n == 1 else f"A failure was found for all {images(n)}."
    return f"No failure found with this budget for {count(standing)} of {images(n)} ({percent(standing / n)})."


def judged(evaluation: str) -> str:
    """The verdict on the evaluation itself, in one sentence."""
    return {
        "invalid": "The evaluation is invalid: the attacks cannot see the classifier as it is.",
        "masked": "Gradients are masked: attacks that must be weaker find what the gradient misses.",
        "weak attack": "The attack is weak: it fails where it could not fail if it worked.",
        "no failure found": "No failure of the evaluation was found.",
    }[evaluation]


def details(summary: Mapping[str, Any]) -> str:
    """What the sentence of `finding` leaves open."""
    verdicts = summary["verdicts"]
    broken, wrong, proved = verdicts["broken"], verdicts["misclassified"], verdicts["certified"]
    low, high = summary["robust_accuracy_interval"]
    broke = {0: "None was broken", 1: "One was broken"}.get(broken, f"{count(broken)} were broken")
    missed = {0: "none is", 1: "one is"}.get(wrong, f"{count(wrong)} are")
    claim = {0: "Nothing is proved", 1: "One image is certified"}.get(proved, f"{count(proved)} are certified")
    return (
        f"{broke} by an attack; {missed} misclassified without one. {claim}. Robust accuracy, in the population these "
        f"images were drawn from, lies between {percent(low)} and {percent(high)} (95% interval)."
    )
