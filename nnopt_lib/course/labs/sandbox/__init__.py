"""Programs that nobody trusts, run within limits."""
