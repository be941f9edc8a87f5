"""The paper's printed tables, and what our records say about each of their cells."""
