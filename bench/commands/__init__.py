"""The commands of `python -m bench`, one a file: its options, its work, its table."""
