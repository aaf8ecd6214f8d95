"""Train and evaluate."""

from nnopt_lib._moved import names_of

__getattr__ = names_of("training")
