"""The CUDA device that is not there: PyTorch's own allocator and operators on any Linux machine, without a GPU."""
