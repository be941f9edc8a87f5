"""Memory that others have measured, and the same scripts on emulated cards."""
