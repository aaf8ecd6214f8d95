"""What layers of modules read: columns times kernel are what the layer gives, for whatever calls it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nnopt_lib.backends.torch.activations import columns, readable
from nnopt_lib.backends.torch.masks import prunable, weights
from nnopt_lib.checks import NnoptError

pytestmark = pytest.mark.torch

NEVER = "its layer is never called; the weight is used by other code, or not at all"
INSIDE = "attention multiplies by it without calling it"


class Calls(nn.Module):
    """A module whose forward pass is a function of itself and its inputs."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs, **named):
        return self.function(self, *inputs, **named)


def read(model, name, x, batch_size=3):
    return np.concatenate(list(columns(model, name, x, batch_size)))


def product(kernel, rows):
    """The outputs as rows, without bias."""
    parts = kernel.reshape(rows.shape[1], -1, rows.shape[2])
    return np.concatenate([rows[:, g] @ part.T for g, part in enumerate(parts)], 1)


def as_rows(output, layer):
    """A layer's outputs, (examples * positions, outputs), without its bias."""
    output = output.detach().numpy()
    if isinstance(layer, nn.modules.conv._ConvNd):
        output = np.moveaxis(output, 1, -1)
    bias = 0 if layer.bias is None else layer.bias.detach().numpy()
    return output.reshape(-1, output.shape[-1]) - bias


def hooks(model):
    return [len(one) for m in model.modules() for one in (m._forward_pre_hooks, m._forward_hooks)]


# ---------------------------------------------------------------- columns times kernel


@st.composite
def convolutions(draw):
    rank = draw(st.integers(1, 3))
    several = lambda low, high: draw(st.tuples(*[st.integers(low, high)] * rank))
    kernel, dilation, groups = several(1, 3), several(1, 2), draw(st.integers(1, 3))
    padding = draw(st.sampled_from(["same", "valid", "numbers"]))
    stride = (1,) * rank if padding == "same" else several(1, 3)
    padding = several(0, 2) if padding == "numbers" else padding
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    torch.manual_seed(draw(st.integers(0, 2**16)))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    layer = kind(inputs, outputs, kernel, bias=draw(st.booleans()), **options)
    space = [(k - 1) * d + n for k, d, n in zip(kernel, dilation, several(1, 4), strict=True)]
    return layer, torch.randn(draw(st.integers(1, 5)), inputs, *space)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=150, deadline=None)
@given(convolutions(), st.integers(1, 6))
def test_columns_times_kernel_are_a_convolutions_outputs(case, batch_size):
    layer, x = case
    model = nn.Sequential(layer, nn.ReLU())
    assert readable(model, ["0/kernel"], x.numpy()) == {"0/kernel": None}
    rows = read(model, "0/kernel", x.numpy(), batch_size)
    assert rows.dtype == np.float32
    found = product(weights(model, None)["0/kernel"], rows)
    np.testing.assert_allclose(found, as_rows(layer(x), layer), atol=2e-6)


@pytest.mark.parametrize("shape", [(7, 5), (7, 4, 5), (7, 2, 3, 5)])
def test_and_a_dense_layers_on_whatever_stands_before_its_features(shape):
    layer, x = nn.Linear(5, 3), torch.randn(*shape)
    rows = read(nn.Sequential(layer), "0/kernel", x.numpy())
    assert rows.shape == (x.numel() // 5, 1, 5)
    np.testing.assert_allclose(
        product(layer.weight.detach().numpy(), rows), as_rows(layer(x), layer), atol=1e-6
    )


def test_of_one_example_without_a_batch_a_convolution_is_read_too():
    layer, x = nn.Conv1d(3, 4, 2), torch.randn(6, 3, 8)
    model = Calls(lambda m, x: torch.stack([m.conv(one) for one in x]), conv=layer)
    assert readable(model, ["conv/kernel"], x.numpy()) == {"conv/kernel": None}
    rows = read(model, "conv/kernel", x.numpy()[:1])
    np.testing.assert_allclose(
        product(layer.weight.detach().numpy(), rows), as_rows(layer(x[:1]), layer), atol=1e-6
    )


def test_portions_of_a_batch_are_the_batch(monkeypatch):
    model, x = nn.Sequential(nn.Conv2d(2, 3, 3)), np.random.default_rng(0).normal(size=(9, 2, 8, 8))
    whole = list(columns(model, "0/kernel", x, 9))
    monkeypatch.setattr("nnopt_lib.pruning.columns.PORTION", 2 * 8 * 8 * 9 * 2)
    parts = list(columns(model, "0/kernel", x, 9))
    assert [len(one) for one in whole] == [9 * 36] and [len(one) for one in parts] == [72, 72, 72, 72, 36]
    np.testing.assert_array_equal(np.concatenate(parts), whole[0])


# ---------------------------------------------------------------- which calls are read


def test_the_first_calls_order_the_answer_and_each_calls_rows_are_read():
    twice = lambda m, x: m.c(m.b(m.a(m.b(x))))
    layers = {name: nn.Linear(4, 4) for name in "abc"}
    model, x = Calls(twice, **layers), np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    names = ["a/kernel", "b/kernel", "c/kernel"]
    assert list(readable(model, names, x)) == ["b/kernel", "a/kernel", "c/kernel"]
    parts = list(columns(model, "b/kernel", x, 3))
    assert [len(part) for part in parts] == [3, 3, 2, 2]
    between = model.a(model.b(torch.as_tensor(x))).detach().numpy()
    np.testing.assert_allclose(np.concatenate(parts[::2])[:, 0], x)
    np.testing.assert_allclose(np.concatenate(parts[1::2])[:, 0], between, atol=1e-6)


def test_a_weight_that_two_layers_share_is_read_at_both():
    a, b = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
    b.weight = a.weight
    model, x = nn.Sequential(a, nn.ReLU(), b), np.random.default_rng(0).normal(size=(5, 4))
    assert readable(model, prunable(model), x) == {"0/kernel": None}
    rows = read(model, "0/kernel", x, 5)
    behind = F.relu(a(torch.as_tensor(x, dtype=torch.float32))).detach().numpy()
    np.testing.assert_allclose(rows[:, 0], np.concatenate([x, behind]), rtol=1e-5, atol=1e-6)


def test_one_that_an_embedding_shares_is_not():
    embedding, out = nn.Embedding(9, 4), nn.Linear(4, 9)
    out.weight = embedding.weight
    model = nn.Sequential(embedding, out)
    names, tokens = prunable(model), np.arange(6).reshape(2, 3)
    assert readable(model, names, tokens) == {names[0]: "an embedding reads indices"}


def test_nothing_behind_the_layer_is_run_and_nothing_of_the_model_is_changed():
    behind = []
    model = nn.Sequential(
        nn.Linear(4, 4),
        nn.Dropout(0.5),
        nn.BatchNorm1d(4),
        nn.Linear(4, 4),
        Calls(lambda m, x: behind.append(len(x)) or x),
    )
    model[2].eval()  # frozen, in a model that trains
    x, state = (
        np.random.default_rng(0).normal(size=(10, 4)),
        {name: one.clone() for name, one in model.state_dict().items()},
    )
    modes = [m.training for m in model.modules()]
    rows = read(model, "3/kernel", x, 4)
    assert behind == [4]  # the first batch tells how many calls there are
    assert readable(model, ["3/kernel"], x) == {"3/kernel": None}
    assert [m.training for m in model.modules()] == modes and not any(hooks(model))
    for name, one in model.state_dict().items():
        assert torch.equal(one, state[name])
    model.eval()
    expected = model[:3](torch.as_tensor(x, dtype=torch.float32)).detach().numpy()
    np.testing.assert_allclose(rows[:, 0], expected, rtol=1e-6)


def test_an_error_or_an_end_in_between_leaves_no_hooks():
    def fails(m, x):
        raise RuntimeError("inside")

    x = np.ones((4, 3), np.float32)
    model = nn.Sequential(nn.Linear(3, 3), Calls(fails), nn.Linear(3, 3))
    for read_it in (
        lambda: readable(model, ["0/kernel", "2/kernel"], x),
        lambda: list(columns(model, "2/kernel", x, 2)),
    ):
        with pytest.raises(NnoptError, match="must run on the examples x; received RuntimeError: .*inside"):
            read_it()
        assert not any(hooks(model)) and all(m.training for m in model.modules())
    begun = columns(nn.Sequential(model[0]), "0/kernel", x, 2)
    next(begun)
    assert not any(hooks(model)) and model[0].training  # while the columns are worked with, too


def test_a_model_that_catches_errors_does_not_catch_the_end():
    def careful(m, x):
        try:
            return m.fc(x)
        except Exception:
            return x

    model, x = Calls(careful, fc=nn.Linear(3, 3)), np.ones((4, 3), np.float32)
    assert [len(part) for part in columns(model, "fc/kernel", x, 1)] == [1] * 4


def test_data_and_columns_are_those_of_before_when_a_model_works_in_place():
    def in_place(m, x):
        x.mul_(2)
        y = m.fc(x)
        x.zero_()
        return y

    x = np.ones((3, 2), np.float32)
    model = Calls(in_place, fc=nn.Linear(2, 2))
    np.testing.assert_array_equal(read(model, "fc/kernel", x)[:, 0], np.full((3, 2), 2.0))
    np.testing.assert_array_equal(x, np.ones((3, 2)))


def test_several_inputs_come_as_a_tuple_or_by_name():
    model = Calls(lambda m, a, b: m.fc(input=a + b), fc=nn.Linear(3, 3))
    a, b = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    for x in ((a, b), {"b": b, "a": a}):
        assert readable(model, ["fc/kernel"], x) == {"fc/kernel": None}
        np.testing.assert_array_equal(read(model, "fc/kernel", x, 2)[:, 0], a + b)


def test_what_users_hooks_make_of_an_input_is_what_is_read():
    model, x = nn.Sequential(nn.Linear(3, 3)), np.ones((2, 3), np.float32)
    model[0].register_forward_pre_hook(lambda module, args: (args[0] * 3,))
    model[0].register_forward_hook(lambda module, args, output: output + 100)
    assert readable(model, ["0/kernel"], x) == {"0/kernel": None}
    np.testing.assert_array_equal(read(model, "0/kernel", x)[:, 0], 3 * x)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.optim.swa_utils.AveragedModel, torch.compile])
def test_wrapped_and_compiled_models_are_read(wrap):
    inner, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), np.ones((5, 3), np.float32)
    model = wrap(inner)
    assert readable(model, prunable(model), x) == {"0/kernel": None, "1/kernel": None}
    assert read(model, "1/kernel", x).shape == (5, 1, 4)
    partly = nn.Sequential(torch.compile(nn.Linear(3, 4)), nn.Linear(4, 2))
    assert set(readable(partly, prunable(partly), x).values()) == {None}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_types_are_read_as_float32(dtype):
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Conv1d(5, 2, 2)).to(dtype), np.ones((6, 5, 3))
    assert set(readable(model, prunable(model), x).values()) == {None}
    assert read(model, "1/kernel", x).dtype == np.float32


# ---------------------------------------------------------------- attention


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_kernel_of_self_attention_reads_what_attends(batch_first):
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, norm_first=True)
    x = np.random.default_rng(0).normal(size=(6, 3, 8)).astype(np.float32)
    reasons = readable(encoder, prunable(encoder), x)
    assert reasons == {
        "self_attn/in_proj_weight": None,
        "linear1/kernel": None,
        "linear2/kernel": None,
        "self_attn.out_proj/kernel": INSIDE,
    }
    assert torch.backends.mha.get_fastpath_enabled()
    rows = read(encoder, "self_attn/in_proj_weight", x, 2)
    expected = encoder.norm1(torch.as_tensor(x)).detach().numpy().reshape(-1, 8)
    np.testing.assert_allclose(rows[:, 0], expected, atol=1e-6)


def test_attention_to_something_else_is_read_if_its_kernels_are_apart():
    together, apart = nn.MultiheadAttention(4, 2), nn.MultiheadAttention(4, 2, kdim=3, vdim=5)
    cross = lambda m, q, k, v: m.apart(m.together(q, q + 1, q)[0], key=k, value=v)
    model = Calls(cross, together=together, apart=apart)
    random = np.random.default_rng(0)
    x = tuple(random.normal(size=(6, 2, size)).astype(np.float32) for size in (4, 3, 5))
    reasons = readable(model, prunable(model), x)
    assert reasons == {
        "together/in_proj_weight": "one kernel reads query, key and value, which are not the same here",
        "apart/q_proj_weight": None,
        "apart/k_proj_weight": None,
        "apart/v_proj_weight": None,
        "together.out_proj/kernel": INSIDE,
        "apart.out_proj/kernel": INSIDE,
    }
    np.testing.assert_array_equal(read(model, "apart/k_proj_weight", x, 6)[:, 0], x[1].reshape(-1, 3))
    np.testing.assert_array_equal(read(model, "apart/v_proj_weight", x, 6)[:, 0], x[2].reshape(-1, 5))


# ---------------------------------------------------------------- what is not read


class Standardized(nn.Conv2d):
    """A convolution with another kernel than its own, as some networks have."""

    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias)


class Renamed(nn.Linear):
    """A class of one's own that changes nothing."""


class Pair(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


def test_reasons():
    model = Calls(
        lambda m, x: m.linear(
            m.pair(F.linear(m.transposed(m.reflect(m.standard(x))).flatten(2), m.used.weight))[0]
        ),
        standard=Standardized(2, 2, 3),
        reflect=nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        transposed=nn.ConvTranspose2d(3, 2, 2),
        used=nn.Linear(49, 4),
        pair=Pair(4, 4),
        linear=Renamed(4, 4),
        idle=nn.Linear(3, 3),
    )
    x = np.random.default_rng(0).normal(size=(3, 2, 8, 8)).astype(np.float32)
    assert readable(model, [*prunable(model), "linear/bias"], x) == {
        "standard/kernel": "Standardized computes something else than its kernel times its input",
        "reflect/kernel": "it pads by padding_mode='reflect', not by zeros",
        "transposed/kernel": "a transposed convolution adds what overlaps",
        "pair/kernel": "Pair computes something else than its kernel times its input",
        "linear/kernel": None,
        "linear/bias": "'bias' of Renamed is no kernel of a dense layer or convolution",
        "used/kernel": NEVER,
        "idle/kernel": NEVER,
    }


def test_a_bilinear_layer_and_bags_have_reasons_too():
    model = Calls(lambda m, x: m.two(m.bag(x), m.bag(x)), two=nn.Bilinear(4, 4, 3), bag=nn.EmbeddingBag(9, 4))
    assert readable(model, prunable(model), np.arange(6).reshape(2, 3)) == {
        "bag/weight": "an embedding reads indices",
        "two/weight": "'weight' of Bilinear is no kernel of a dense layer or convolution",
    }


def test_a_model_that_takes_single_examples_away_is_read():
    model = Calls(lambda m, x: m.fc(x.squeeze()), fc=nn.Linear(3, 2))
    assert readable(model, ["fc/kernel"], np.ones((4, 1, 3), np.float32)) == {"fc/kernel": None}
