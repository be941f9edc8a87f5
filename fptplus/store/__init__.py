"""Preloaded features and images on disk."""
