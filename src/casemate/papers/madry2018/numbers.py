"""Numbers as rows and answers write them."""

import math


def written(values: list[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def percent(share: float) -> str:
    return f"{share:.1%}"


def ratio(value: float | None) -> str:
    """With two decimals, where there is such a number."""
    return "no number" if value is None or math.isnan(value) else f"{value:.2f}"
