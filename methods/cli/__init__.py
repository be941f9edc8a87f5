"""The commands of `python -m fptplus`, one per file: they read options, combine the layers below, print results."""
