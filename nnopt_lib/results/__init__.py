"""From rows to figures and claims."""
