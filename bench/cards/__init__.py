"""GPUs: what CUDA reports of each, how much of it a process holds before its first tensor, and what fits."""
