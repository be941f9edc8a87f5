"""The training step, and what trains with it."""
