"""A model of either framework, seen neutrally."""
