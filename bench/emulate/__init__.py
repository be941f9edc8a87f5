"""An emulated CUDA device: PyTorch's own allocator and operators on any Linux machine, without a GPU."""
