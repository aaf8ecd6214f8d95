"""What layers of Keras models read: columns times canonical kernel are what the layer gives."""

import pytest

from nnopt_lib.checks import NnoptError

pytestmark = pytest.mark.keras

import numpy as np  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from nnopt_lib.backends.keras import keras, tf  # noqa: E402
from nnopt_lib.backends.keras.activations import columns, readable  # noqa: E402
from nnopt_lib.backends.keras.build import channels_last  # noqa: E402
from nnopt_lib.backends.keras.masks import prunable, weights  # noqa: E402

layers = keras.layers
NEVER = "its layer is never called; the weight is used by other code, or not at all"


def kernel_of(model):
    """The name of a model's only kernel."""
    (name,) = prunable(model)
    return name


def read(model, name, x, batch_size=3):
    return np.concatenate(list(columns(model, name, x, batch_size)))


def product(model, name, rows):
    """The outputs as rows, without bias."""
    parts = weights(model, None)[name].reshape(rows.shape[1], -1, rows.shape[2])
    return np.concatenate([rows[:, g] @ part.T for g, part in enumerate(parts)], 1)


def calls_of(model):
    return [layer.__dict__.get("call") for layer in model._flatten_layers()]


# ---------------------------------------------------------------- columns times kernel


@st.composite
def convolutions(draw):
    """A convolution that TensorFlow computes on a processor, and its input in canonical order."""
    rank, depthwise = draw(st.sampled_from([(1, False), (2, False), (3, False), (1, True), (2, True)]))
    several = lambda low, high: draw(st.tuples(*[st.integers(low, high)] * rank))
    kernel, more = several(1, 4), several(1, 5)
    steps = draw(st.sampled_from(["stride", "dilation"]))  # TensorFlow refuses both at once
    stride = several(1, 3) if steps == "stride" else (1,) * rank
    dilation = several(1, 3) if steps == "dilation" else (1,) * rank
    if depthwise:  # which must be the same in all dimensions
        stride, dilation = (stride[0],) * rank, (dilation[0],) * rank
    paddings = ["same", "valid"] + ["causal"] * (rank == 1 and not depthwise)
    options = {
        "strides": stride,
        "dilation_rate": dilation,
        "padding": draw(st.sampled_from(paddings)),
        "use_bias": False,
    }
    groups = 1 if rank == 3 or max(dilation) > 1 else draw(st.integers(1, 3))
    # TensorFlow 2.21's conv3d with oneDNN reads past one input channel under strides (others agree with ours).
    inputs = groups * draw(st.integers(1, 2)) if rank < 3 else draw(st.integers(2, 4))
    if depthwise:
        kind = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)[rank - 1]
        options["depth_multiplier"] = draw(st.integers(1, 3))
    else:
        kind = (layers.Conv1D, layers.Conv2D, layers.Conv3D)[rank - 1]
        options |= {"filters": groups * draw(st.integers(1, 2)), "groups": groups}
    space = [(k - 1) * d + n for k, d, n in zip(kernel, dilation, more, strict=True)]
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    options["kernel_size"] = kernel
    return kind, options, random.normal(size=(draw(st.integers(1, 4)), inputs, *space)).astype(np.float32)


@settings(max_examples=120, deadline=None)
@given(convolutions(), st.integers(1, 5))
def test_columns_times_kernel_are_a_convolutions_outputs(case, batch_size):
    kind, options, x = case
    layer = kind(**options)
    model = keras.Sequential([keras.Input(channels_last(x).shape[1:]), layer, layers.ReLU()])
    name = kernel_of(model)
    assert readable(model, [name], x) == {name: None}
    rows = read(model, name, x, batch_size)
    assert rows.dtype == np.float32
    expected = np.asarray(layer(channels_last(x)))
    np.testing.assert_allclose(
        product(model, name, rows), expected.reshape(-1, expected.shape[-1]), atol=5e-6
    )


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3), (5, 4, 2, 3)])
def test_and_a_dense_layers_on_whatever_stands_before_its_features(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    layer = layers.Dense(3, use_bias=False)
    model = keras.Sequential([keras.Input(channels_last(x).shape[1:]), layer])
    rows = read(model, kernel_of(model), x)
    expected = np.asarray(layer(channels_last(x))).reshape(-1, 3)
    np.testing.assert_allclose(product(model, kernel_of(model), rows), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("equation", "shape", "output"),
    [
        ("ab,bc->ac", (4,), 5),
        ("abc,cd->abd", (3, 4), (None, 5)),
        ("abc,cde->abde", (3, 4), (None, 2, 3)),  # queries of attention
        ("abcd,cde->abe", (3, 2, 4), (None, 5)),  # its outputs
        ("...x,xy->...y", (3, 4), 5),
        ("ab...,bc->ac...", (4, 3), (5, None)),
        ("abc,bd->adc", (3, 4), (5, None)),  # along positions
        ("abc,dcb->ad", (3, 4), 5),  # the kernel's axes are in another order
    ],
)
def test_and_an_einsums_whose_equation_is_that_of_a_dense_layer(equation, shape, output):
    layer = layers.EinsumDense(equation, output)
    model = keras.Sequential([keras.Input(shape), layer])
    x = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    canonical = np.moveaxis(x, -1, 1) if x.ndim > 2 else x
    name = kernel_of(model)
    assert readable(model, [name], canonical) == {name: None}
    found = product(model, name, read(model, name, canonical, 5))
    expected = np.asarray(layer(x))
    if output == (5, None):
        expected = np.moveaxis(expected, 1, -1)
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=2e-6)


@pytest.mark.parametrize(
    ("equation", "shape", "output"),
    [("abc,bcd->abd", (3, 4), (3, 5)), ("abc,cd->ad", (3, 4), 5), ("ab,b->ab", (4,), 4)],
)
def test_other_equations_have_a_reason(equation, shape, output):
    model = keras.Sequential([keras.Input(shape), layers.EinsumDense(equation, output)])
    x = np.ones((2, *shape), np.float32)
    canonical = np.moveaxis(x, -1, 1) if x.ndim > 2 else x
    assert readable(model, [kernel_of(model)], canonical) == {
        kernel_of(model): f"equation {equation!r} is not that of a dense layer"
    }


def test_portions_of_a_batch_are_the_batch(monkeypatch):
    model = keras.Sequential([keras.Input((8, 8, 2)), layers.Conv2D(3, 3)])
    x = np.random.default_rng(0).normal(size=(9, 2, 8, 8)).astype(np.float32)
    whole = list(columns(model, kernel_of(model), x, 9))
    monkeypatch.setattr("nnopt_lib.pruning.columns.PORTION", 2 * 8 * 8 * 9 * 2)
    parts = list(columns(model, kernel_of(model), x, 9))
    assert [len(one) for one in whole] == [9 * 36] and [len(one) for one in parts] == [72, 72, 72, 72, 36]
    np.testing.assert_array_equal(np.concatenate(parts), whole[0])


# ---------------------------------------------------------------- which calls are read


def test_the_first_calls_order_the_answer_and_each_calls_rows_are_read():
    inputs = keras.Input((4,))
    a, b, c = (layers.Dense(4, name=name, activation="tanh") for name in "abc")
    model = keras.Model(inputs, c(b(a(b(inputs)))))
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    assert list(readable(model, ["a/kernel", "b/kernel", "c/kernel"], x)) == [
        "b/kernel",
        "a/kernel",
        "c/kernel",
    ]
    parts = list(columns(model, "b/kernel", x, 3))
    assert [len(part) for part in parts] == [3, 3, 2, 2]
    np.testing.assert_array_equal(np.concatenate(parts[::2])[:, 0], x)
    np.testing.assert_allclose(np.concatenate(parts[1::2])[:, 0], np.asarray(a(b(x))), atol=1e-6)


class Own(keras.Model):
    """A model whose code is a traced function, with a layer that it does not call."""

    def __init__(self):
        super().__init__()
        self.behind = 0
        self.first, self.second = layers.Dense(4, name="first"), layers.Dense(3, name="second")
        self.idle, self.drop = layers.Dense(2, name="idle"), layers.Dropout(0.5)
        self.idle.build((None, 3))

    @tf.function
    def call(self, x, training=None):
        y = self.second(self.drop(self.first(x), training=training))
        self.behind += 1
        return y


def test_nothing_behind_the_layer_is_run_and_nothing_of_the_model_is_changed():
    model, x = Own(), np.random.default_rng(0).normal(size=(10, 5)).astype(np.float32)
    model(x)
    names = prunable(model)
    before, calls, behind = [one.copy() for one in model.get_weights()], calls_of(model), model.behind
    assert list(readable(model, names, x).values()) == [None, None, NEVER]
    rows = read(model, next(name for name in names if "second" in name), x, 4)
    assert model.behind == behind + 2  # by `readable`, and by the first batch, which counts the calls
    np.testing.assert_allclose(rows[:, 0], np.asarray(model.first(x)), atol=1e-6)
    assert calls_of(model) == calls == [None] * len(calls) and not tf.config.functions_run_eagerly()
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_error_or_an_end_in_between_leaves_the_layers_as_they_were():
    class Fails(layers.Layer):
        def call(self, x):
            raise RuntimeError("inside")

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape)

    inputs = keras.Input((3,))
    first, last = layers.Dense(3, name="first"), layers.Dense(3, name="last")
    model, x = keras.Model(inputs, last(Fails()(first(inputs)))), np.ones((4, 3), np.float32)
    for read_it in (
        lambda: readable(model, ["first/kernel", "last/kernel"], x),
        lambda: list(columns(model, "last/kernel", x, 2)),
    ):
        with pytest.raises(NnoptError, match="must run on the examples x; received RuntimeError: .*inside"):
            read_it()
        assert not any(calls_of(model)) and not tf.config.functions_run_eagerly()
    begun = columns(keras.Model(inputs, first(inputs)), "first/kernel", x, 2)
    next(begun)
    assert not any(calls_of(model))  # while the columns are worked with, too


def test_several_inputs_come_as_a_tuple_or_by_name():
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    out = layers.Dense(2, name="fc")
    by_order = keras.Model([a, b], out(layers.Add()([a, b])))
    by_name = keras.Model({"a": a, "b": b}, out(layers.Add()([a, b])))

    class Apart(keras.Model):
        def __init__(self):
            super().__init__()
            self.fc = layers.Dense(2, name="fc")

        def call(self, a, b):
            return self.fc(a + b)

    own = Apart()
    own(x[0], x[1])
    for model, given_inputs in (
        (by_order, tuple(x)),
        (by_name, {"b": x[1], "a": x[0]}),
        (own, tuple(x)),
        (own, {"b": x[1], "a": x[0]}),
    ):
        name = kernel_of(model)
        assert readable(model, [name], given_inputs) == {name: None}
        np.testing.assert_array_equal(read(model, name, given_inputs, 2)[:, 0], x[0] + x[1])


def test_attention_is_read_at_all_its_kernels():
    inputs = keras.Input((5, 6))
    attention = layers.MultiHeadAttention(2, 3, name="mha")
    model = keras.Model(inputs, attention(inputs, inputs))
    x = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    canonical = np.moveaxis(x, -1, 1)
    assert set(readable(model, prunable(model), canonical).values()) == {None}
    name = next(one for one in prunable(model) if "value" in one)
    np.testing.assert_array_equal(read(model, name, canonical)[:, 0], x.reshape(-1, 6))
    values = (
        product(model, name, read(model, name, canonical)) + np.asarray(attention._value_dense.bias).ravel()
    )
    expected = np.asarray(attention._value_dense(x)).reshape(-1, 6)
    np.testing.assert_allclose(values, expected, atol=1e-6)
    name = next(one for one in prunable(model) if "output" in one)
    assert read(model, name, canonical).shape == (20, 1, 6)


def test_mixed_precision_is_read_as_float32():
    layer = layers.Dense(3, dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input((4,)), layer])
    rows = read(model, kernel_of(model), np.ones((5, 4), np.float32))
    assert rows.dtype == np.float32 and rows.shape == (5, 1, 4)


# ---------------------------------------------------------------- what is not read


class Scaled(layers.Dense):
    def call(self, x):
        return 2 * super().call(x)


class Renamed(layers.Dense):
    """A class of one's own that changes nothing."""


def test_reasons():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 4, name="embedding")(inputs)
    x = layers.Conv1DTranspose(4, 2, name="transposed")(x)
    x = layers.SeparableConv1D(3, 2, name="separable")(x)
    x = Renamed(4, name="renamed")(Scaled(4, name="scaled")(x))
    lora = layers.Dense(2, name="lora")
    model = keras.Model(inputs, lora(x))
    names = prunable(model)
    lora.enable_lora(1)
    separable = "a separable convolution has two kernels, the second of which reads what the first gives"
    assert readable(model, [*names, "renamed/bias"], np.arange(6)[None]) == {
        "embedding/kernel": "an embedding reads indices",
        "transposed/kernel": "a transposed convolution adds what overlaps",
        "separable/kernel": separable,
        "separable/pointwise_kernel": separable,
        "scaled/kernel": "Scaled computes something else than one kernel times its input",
        "renamed/kernel": None,
        "renamed/bias": "Renamed computes something else than one kernel times its input",
        "lora/kernel": "its kernel is made of others (lora or quantization)",
    }
