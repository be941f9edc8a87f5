"""The paper's printed tables, and what our records say of each of their cells."""
