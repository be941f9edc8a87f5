"""A cell, which is one training step in one setting: its configuration, how it is built, and its MACs."""
