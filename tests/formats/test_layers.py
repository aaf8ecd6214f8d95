"""Converted models: outputs of the dense ones on random layers, what they hold, how they travel, refusals."""

import copy
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.formats import FORMATS, convert, store
from nnopt_lib.formats.layers import KERNELS
from tests.formats.kernels import cases, kept

pytestmark = pytest.mark.torch


def close(ours, dense):
    """To 1e-5 of the size of outputs."""
    assert ours.shape == dense.shape and ours.dtype == dense.dtype
    return (
        bool(((ours - dense).abs() <= 1e-5 * dense.abs().amax().clamp(min=1)).all())
        if dense.numel()
        else True
    )


@settings(max_examples=1000, deadline=None)
@given(
    case=cases(), rows=st.sampled_from([1, 2, 3, 31, 32, 70]), kernel=st.sampled_from(KERNELS), data=st.data()
)
def test_layers_give_the_dense_result(case, rows, kernel, data):
    import torch

    weights, format, options = case
    kernel = "auto" if format in ("dense", "bsr") else kernel
    bias, inputs = data.draw(st.booleans()), weights.shape[1]
    if weights.ndim == 2:
        layer, shape = torch.nn.Linear(inputs, len(weights), bias=bias), (rows, inputs)
    else:
        stride, dilation = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
        padding = (
            data.draw(st.integers(0, 2) | st.just("same")) if stride == 1 else data.draw(st.integers(0, 2))
        )
        mode = data.draw(st.sampled_from(["zeros", "replicate", "circular"]))
        kind = torch.nn.Conv1d if weights.ndim == 3 else torch.nn.Conv2d
        layer = kind(
            inputs, len(weights), weights.shape[2:], stride, padding, dilation, bias=bias, padding_mode=mode
        )
        lengths = [dilation * (size - 1) + data.draw(st.integers(2, 6)) for size in weights.shape[2:]]
        shape = (min(rows, 3), inputs, *lengths)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights))
    stored = convert(layer, format, kernel=kernel, **options)
    x = torch.from_numpy(np.random.default_rng(rows).standard_normal(shape).astype(np.float32))
    with torch.inference_mode():
        assert close(stored(x), layer(x))
        assert stored(x).is_contiguous()


def pruned(format, *, seed=0, **options):
    """A described network of convolutions and dense layers, pruned so that `format` fits."""
    spec = nnopt.cnn((16, 32), input_shape=(4, 12, 12), outputs=16)
    model, random = nnopt.build(spec, seed=seed), np.random.default_rng(seed)
    weights = nnopt.get_weights(model)
    for name, value in weights.items():
        if name.endswith("kernel"):
            value *= kept(value.shape, format, 0.7, random, **options)
        else:
            value += random.random(value.shape)
    nnopt.set_weights(model, weights)
    x = random.standard_normal((5, 4, 12, 12)).astype(np.float32)
    return model, x


@pytest.mark.parametrize("format", FORMATS)
def test_a_copy_gives_the_same_holds_what_is_stored_and_travels(format):
    import torch

    options = {"block": (4, 4)} if format == "bsr" else {}
    model, x = pruned(format, **options)
    before, weights = nnopt.predict(model, x), nnopt.get_weights(model)
    small = convert(model, format, **options)
    after = nnopt.predict(small, x)
    assert np.abs(after - before).max() <= 1e-5 * np.abs(before).max()
    assert all(np.array_equal(nnopt.get_weights(model)[name], value) for name, value in weights.items())
    kernels = {name: value for name, value in weights.items() if name.endswith("kernel")}
    stored = sum(store(value, format, **options).nbytes for value in kernels.values())
    rest = sum(value.nbytes for name, value in weights.items() if name not in kernels)
    assert sum(tensor.nbytes for tensor in small.state_dict().values()) == stored + rest
    assert not list(small.parameters())
    assert np.array_equal(nnopt.predict(copy.deepcopy(small), x), after)
    # Other weights with other zeros, of equal counts, through a file.
    other = pruned(format, seed=1, **options)[0]
    nnopt.set_weights(other, {name: np.flip(value).copy() for name, value in weights.items()})
    other = convert(other, format, **options)
    expected, file = nnopt.predict(other, x), io.BytesIO()
    torch.save(other.state_dict(), file)
    file.seek(0)
    small.load_state_dict(torch.load(file, weights_only=True))
    assert np.array_equal(nnopt.predict(small, x), expected) and not np.allclose(expected, after)


def test_chosen_layers_by_name_and_a_module_used_twice():
    import torch
    from torch import nn

    shared = nn.Linear(6, 6)
    model = nn.Sequential(
        shared, nn.ReLU(), nn.ModuleDict({"a": shared, "b": nn.Linear(6, 3)})["a"], nn.Linear(6, 2)
    )
    small = convert(model, "csr", layers=["0/kernel"])
    assert small[0] is small[2] and type(small[3]) is nn.Linear and type(model[0]) is nn.Linear
    x = torch.randn(4, 2, 6)
    with torch.no_grad():
        assert close(small(x), model(x))
        of_compiled = convert(torch.compile(model, backend="eager"), "csr")
        assert type(of_compiled) is nn.Sequential and close(of_compiled(x), model(x))
        assert close(small(x[:0]), model(x[:0]))


def test_attention_goes_on_working():
    import torch
    from torch import nn

    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    small = convert(model, "csr")
    assert sorted(n for n, m in small.named_modules() if type(m).__name__ == "StoredLinear") == [
        *("layers.0.linear1", "layers.0.linear2", "layers.1.linear1", "layers.1.linear2")
    ]
    x, padding = torch.randn(3, 5, 8), torch.arange(5) >= torch.tensor([[5], [4], [2]])
    with torch.inference_mode():
        assert close(small(x), model(x))
        ours, dense = small(x, src_key_padding_mask=padding), model(x, src_key_padding_mask=padding)
        assert close(ours[~padding], dense[~padding])


def test_an_example_without_its_batch():
    import torch

    for layer, shape in (
        (torch.nn.Conv2d(3, 4, 3), (3, 6, 5)),
        (torch.nn.Conv1d(3, 4, 3), (3, 6)),
        (torch.nn.Linear(3, 4), (3,)),
    ):
        x = torch.randn(shape)
        with torch.no_grad():
            assert close(convert(layer, "csr")(x), layer(x))


def two_layers(**options):
    from torch import nn

    return nn.Sequential(nn.Conv2d(4, 6, 3, **options), nn.Flatten(), nn.Linear(24, 10))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: convert(two_layers(), "bsr", layers=["2"]),
            "blocks of 16 x 16 must tile the matrix of a kernel; received 10 x 24 in layer '2'. "
            "Choose another block, or csr.",
        ),
        (
            lambda: convert(two_layers(), "n:m", m=16),
            "m = 16 must divide the inputs of a kernel; received 4 inputs in layer '0'. Choose another m, or csr.",
        ),
        (
            lambda: convert(two_layers(), "n:m"),
            "weights stored as 2:4 must be at most 2 of every 4 inputs in a row; received 4 in layer '0'. "
            "Prune them with granularity='2:4' first.",
        ),
        (
            lambda: convert(two_layers(groups=2), "csr"),
            "layer '0' must have one group of channels to be stored as a matrix; received 2 groups. "
            "Leave it out by layers=[...].",
        ),
        (
            lambda: convert(two_layers().double(), "csr"),
            "layer '0' must have weights of float32 to be stored; received float64. Call model.float() first.",
        ),
        (
            lambda: convert(two_layers(), "csr", layers=["1"]),
            "layers names no Linear, Conv1d or Conv2d layer by '1'. Choose from 0, 2.",
        ),
        (
            lambda: convert(two_layers(), "csr", layers="0"),
            "layers must be a list of names; received the string '0'. Pass ['0'].",
        ),
        (
            lambda: convert(two_layers()[1], "csr"),
            "a model to convert needs a Linear, Conv1d or Conv2d layer; received none.",
        ),
        (
            lambda: convert(two_layers(), "csc"),
            "format must be one of dense, csr, bsr, n:m, constant_fan_in; received 'csc'. Did you mean 'csr'?",
        ),
        (
            lambda: convert(two_layers(), "csr", kernel="mkl"),
            "kernel must be one of auto, matmul, gather; received 'mkl'.",
        ),
        (
            lambda: convert(two_layers(), "bsr", kernel="gather"),
            "kernel is chosen for csr, n:m and constant_fan_in; received 'gather' for bsr.",
        ),
    ],
)
def test_refusals(call, sentence):
    with pytest.raises(NnoptError) as error:
        call()
    assert str(error.value) == sentence


@pytest.mark.keras
def test_a_keras_model_is_refused_with_the_way_to_a_torch_one():
    spec = nnopt.mlp((8,), inputs=4, outputs=3)
    model, x = nnopt.build(spec, "keras"), np.ones((2, 4), np.float32)
    with pytest.raises(NnoptError) as error:
        convert(model, "csr")
    assert str(error.value) == (
        "a model to convert must be a torch.nn.Module; received a Keras model. Build its description by "
        "build(describe(model)), and copy_weights into that."
    )
    twin = nnopt.build(nnopt.describe(model))
    nnopt.copy_weights(model, twin)
    np.testing.assert_allclose(nnopt.predict(convert(twin, "csr"), x), nnopt.predict(model, x), rtol=1e-5)
