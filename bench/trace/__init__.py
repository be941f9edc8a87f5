"""A model of PyTorch on a GPU, for machines where the emulated device does not run.

It traces a step on meta tensors, applies CUDA's rules, and replays the step through a simulated allocator.
"""
