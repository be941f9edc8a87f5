"""Many cells: in which order, where, for how long, and what is kept when it stops."""
