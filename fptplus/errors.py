"""The error raised for input that a user can correct; the command line prints it as one sentence."""


class InvalidInput(ValueError):
    """Wrong input; the message says in one sentence which input breaks which rule, its value, and what is accepted."""
