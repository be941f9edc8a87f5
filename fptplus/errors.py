"""The error for input that a user can correct; the command line prints it as one sentence."""


class InvalidInput(ValueError):
    """Says in one sentence which input breaks which rule, the value found, and what would be accepted."""
