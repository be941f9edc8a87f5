"""GPUs: what CUDA reports of each, what a process holds on it before it has a tensor, and what fits."""
