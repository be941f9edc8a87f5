// Stands in for a header of the CUDA toolkit that the wheels do not ship; nothing of it is needed.
