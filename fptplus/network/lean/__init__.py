"""The lean layers: what the plain ones compute, with backward passes of their own that keep and compute less.

No equation of the paper needs this folder. `layer_kind` says whether a network uses it.
"""
