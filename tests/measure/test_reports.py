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


@pytest.mark.parametrize("repeats", [0, 5, 2.5])
def test_too_few_calls_for_an_interval_are_refused(repeats):
    model, _ = pruned()
    with pytest.raises(NnoptError) as error:
        nnopt.measure.report(model, example_input=X, repeats=repeats)
    assert str(error.value) == f"repeats must be a whole number, at least 6; received {repeats}."


# ---------------------------------------------------------------- models that describe does not understand


def row_of(model, x):
    (row,) = nnopt.measure.report(model, example_input=x, repeats=6)
    assert row["macs"] is None and 0 < row["low_seconds"] <= row["latency_seconds"]
    return row


def test_torch_models_of_several_outputs():
    import torch

    class Heads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = torch.nn.Linear(6, 8), torch.nn.Linear(8, 3)

        def forward(self, x):
            hidden = self.body(x)
            return {"hidden": hidden, "out": [self.head(hidden)]}

    row = row_of(Heads(), np.zeros((2, 6), np.float32))
    assert row["parameters"] == 7 * 8 + 9 * 3 and row["parameter_bytes"] == 4 * row["parameters"]


@pytest.mark.keras
@pytest.mark.parametrize("outputs", ["list", "dictionary", "of a class"])
def test_keras_models_of_several_outputs(outputs):
    from nnopt_lib.backends.keras import keras

    body, head = keras.layers.Dense(8), keras.layers.Dense(3)
    inputs = keras.Input((6,))
    hidden = body(inputs)
    if outputs == "of a class":

        class Heads(keras.Model):
            def __init__(self):
                super().__init__()
                self.body, self.head = body, head

            def call(self, x):
                hidden = self.body(x)
                return hidden, {"out": [self.head(hidden)]}

        model = Heads()
        model(np.zeros((2, 6), np.float32))
    else:
        both = {"hidden": hidden, "out": head(hidden)}
        model = keras.Model(inputs, both if outputs == "dictionary" else list(both.values()))
    nnopt.prune(model, sparsity=0.5)
    row = row_of(model, np.zeros((2, 6), np.float32))
    assert row["parameters"] == 7 * 8 + 9 * 3
    assert row["zeros"] == (6 * 8 + 8 * 3) // 2 + 8 + 3  # and biases


@pytest.mark.keras
@pytest.mark.parametrize("kind", ["fixed", "of any size", "of a class"])
def test_keras_models_read_images_in_either_layout(kind):
    from nnopt_lib.backends.keras import keras

    class Convolution(keras.Model):
        def __init__(self):
            super().__init__()
            self.layer = keras.layers.Conv2D(2, 3)

        def call(self, x):
            return [self.layer(x), x]

    if kind == "of a class":
        model = Convolution()
        model(np.zeros((1, 9, 8, 3), np.float32))
    else:
        inputs = keras.Input((9, 8, 3) if kind == "fixed" else (None, None, 3))
        model = keras.Model(inputs, [keras.layers.Conv2D(2, 3)(inputs), inputs])
    for shape in ((4, 9, 8, 3), (4, 3, 9, 8)):
        assert row_of(model, np.zeros(shape, np.float32))["parameters"] == 3 * 3 * 3 * 2 + 2


@pytest.mark.keras
def test_keras_models_of_several_inputs_are_refused():
    from nnopt_lib.backends.keras import keras

    inputs = [keras.Input((6,)), keras.Input((6,))]
    model = keras.Model(inputs, keras.layers.Add()(inputs), name="pair")
    with pytest.raises(NnoptError) as error:
        nnopt.measure.report(model, example_input=np.zeros((2, 6), np.float32))
    assert str(error.value) == "a report needs models of one input, and 'pair' has more; received 2."
