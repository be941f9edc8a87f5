"""The commands of `python -m fptplus`, one a file: options read, layers put together, results printed."""
