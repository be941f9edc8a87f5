"""FPT and FPT+ as modules: the frozen backbone, what is selected and fused, and the side network, made fast."""
