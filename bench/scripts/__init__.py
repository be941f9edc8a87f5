"""Anybody's training script on emulated cards: run it unchanged, watch its memory, and say what it needs."""
