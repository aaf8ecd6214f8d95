"""Chapters: read, executed, checked, verified."""
