"""The built book."""
