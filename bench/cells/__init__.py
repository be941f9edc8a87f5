"""A cell, which is one training step in one setting: what is asked, how it is built, what is counted of it."""
