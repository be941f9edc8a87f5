"""Benchmarks of this project's own speed, for pytest-benchmark."""
