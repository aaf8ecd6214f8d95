"""The small space and the short recipe that the tests of searching share."""

import nnopt_lib as nnopt

RECIPE = nnopt.Training(epochs=1, batch_size=100, optimizer="adam", learning_rate=0.01)
WIDTHS = [(4,), (8,), (16,), (24,), (32,), (8, 8), (16, 8), (16, 16)]
OPTIONS = {"data": "digits", "training": RECIPE, "seeds": 3}


def widths(units=WIDTHS):
    return nnopt.SearchSpace(nnopt.mlp, units=list(units), inputs=64, outputs=10)
