"""Many cells: in which order, where, how long, and what is kept when it stops."""
