"""What Casemate says when it cannot go on: one sentence that names the cause and what to do."""


class CasemateError(ValueError):
    """An input that cannot be used; the message is one sentence for the user.

    The command line prints it and exits with status 2. A `ValueError`, so that a caller of the library needs no
    import to catch it.
    """


class NoGradient(CasemateError):
    """A classifier whose answers do not lead back to its images: something on the way cuts the gradient off."""


class Contradiction(RuntimeError):
    """An image that is both certified and broken: a bug in Casemate, never a result (design, section 1)."""


def first_line(error: BaseException, otherwise: str = "no message") -> str:
    """The first line of what an error says, `otherwise` where it says nothing."""
    return next(iter(str(error).strip().splitlines()), otherwise)
