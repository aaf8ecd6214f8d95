"""Search for a structure under a budget."""
