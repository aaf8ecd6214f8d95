"""Frozen settings in, rows out."""
