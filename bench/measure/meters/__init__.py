"""Meters of memory, power and time, one quantity per file."""
