"""Memory of a training step without a GPU: trace it, apply CUDA's rules, replay it through the allocator."""
