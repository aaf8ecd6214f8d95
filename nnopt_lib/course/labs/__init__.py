"""Labs: handed out, taken in, graded, reported."""
