"""Benchmarks of our own speed, for pytest-benchmark."""
