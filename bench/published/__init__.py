"""Memory that others measured, compared with the same scripts on emulated cards."""
