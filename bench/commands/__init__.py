"""The commands of `python -m bench`, one per file: its options, its work, its table."""
