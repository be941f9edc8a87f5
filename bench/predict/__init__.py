"""What a cell needs, predicted without its GPU: emulated if possible, else traced."""
