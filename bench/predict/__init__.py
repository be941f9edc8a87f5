"""What a cell takes, on a machine without its GPU: emulated where that runs, else traced."""
