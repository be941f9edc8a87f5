"""A cell on a device that is there: a process of its own, its memory, time and power."""
