"""Changes of a description; with weights, the function stays."""
