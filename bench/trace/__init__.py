"""A model of PyTorch on a GPU, for machines where the emulated device does not run.

Trace a step on meta tensors, apply CUDA's rules, replay it through a simulated allocator.
"""
