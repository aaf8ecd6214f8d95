import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.measure.reports import Report

pytestmark = pytest.mark.torch
X = np.random.default_rng(0).standard_normal((4, 1, 12, 12), np.float32)


def pruned():
    model = nnopt.build(nnopt.cnn((6, 9), input_shape=(1, 12, 12), outputs=3))
    return model, nnopt.prune(model, sparsity=0.5, granularity="node", example_input=X)


def test_a_report_stands_side_by_side():
    model, masks = pruned()
    small = nnopt.remove_nodes(model, masks, example_input=X)
    rows = nnopt.measure.report(model, small, example_input=X, repeats=6)
    assert [row["parameters"] for row in rows] == [
        sum(p.numel() for p in m.parameters()) for m in (model, small)
    ]
    # Biases begin at 0 and are counted too: what is left of them, after removal only these.
    zeros = [sum(int((p == 0).sum()) for p in m.parameters()) for m in (model, small)]
    assert [row["zeros"] for row in rows] == zeros and zeros[0] > zeros[1]
    assert rows[1]["macs"] < rows[0]["macs"]
    assert all(0 < row["low_seconds"] <= row["latency_seconds"] <= row["high_seconds"] for row in rows)
    lines = repr(rows).split("\n")
    assert len(lines) == 3 and len({len(line) for line in lines}) == 1 and "MACs" in lines[0]


def test_two_models_of_one_name_are_two_rows():
    model, _ = pruned()
    rows = nnopt.measure.report(model, model, example_input=X, names=["same", "same"], repeats=6)
    assert [row["model"] for row in rows] == ["same", "same"]


def test_an_empty_report_prints_nothing():
    assert repr(Report()) == ""


@pytest.mark.parametrize("names", [[], ["one", "two"]])
def test_a_name_for_each_model_is_asked_for(names):
    model, _ = pruned()
    with pytest.raises(NnoptError) as error:
        nnopt.measure.report(model, example_input=X, names=names)
    sentence = "a report needs at least one model, and a name for each; received 1 and"
    assert str(error.value) == f"{sentence} {len(names)}."
