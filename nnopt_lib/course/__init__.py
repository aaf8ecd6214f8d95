"""From notebooks to a book, a paper and graded labs; only the command imports it."""

from nnopt_lib._moved import names_of

__getattr__ = names_of("course")
