"""Memory, compute and power of fine-tuning a Vision Transformer: predicted on any machine, measured on a GPU."""
