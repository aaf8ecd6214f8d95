"""How sparse weights are stored, exported and run, and what that costs. Chapter 16 teaches it."""
