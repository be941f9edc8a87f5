"""The lean layers: they compute what the plain ones do, with hand-written backward passes that keep and compute less.

No equation of the paper needs this folder. `layer_kind` decides whether a network uses it.
"""
