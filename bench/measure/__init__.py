"""Measure a cell on a real device: in a process of its own, its memory, time and power."""
