"""Checks shared by the architectures: sizes are whole numbers that a network can be built with."""

from casemate.errors import CasemateError


def at_least(minimum: int, **sizes: object) -> None:
    """Raise `CasemateError` naming the first of `sizes` that is not a whole number of at least `minimum`."""
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise CasemateError(f"{name} must be a whole number of at least {minimum}, got {value!r}")
