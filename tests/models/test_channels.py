"""Operations that were taught, and what saved masks and recipes keep of models that nobody described."""

import pytest

pytestmark = pytest.mark.torch

import torch  # noqa: E402
from torch import nn  # noqa: E402

import nnopt_lib as nnopt  # noqa: E402
from nnopt_lib.checks import NnoptError  # noqa: E402
from nnopt_lib.structure import reading  # noqa: E402
from tests.torch_architectures import drawn  # noqa: E402
from tests.torch_reading import Net, assert_close, check, everything, run  # noqa: E402

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


@torch.library.custom_op("nnopt_tests::bend", mutates_args=())
def bend(x: torch.Tensor) -> torch.Tensor:
    return x * x.abs()


bend.register_autograd(
    lambda ctx, grad: grad * 2 * ctx.saved_tensors[0].abs(),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)


class Bend(nn.Module):
    def forward(self, x):
        return torch.special.i1(x)


class Product(nn.Module):
    def forward(self, x, y):
        return torch.special.xlog1py(x, y.abs())


class Turned(nn.Module):
    def forward(self, x):
        return torch.ops.aten.flip(x, [1])  # channels in the other order


@pytest.fixture(autouse=True)
def _forgotten():
    before = dict(reading.TAUGHT)
    yield
    reading.TAUGHT.clear()
    reading.TAUGHT.update(before)


def with_operation(op):
    layers = {"a": nn.Linear(4, 8), "b": nn.Linear(8, 6), "c": nn.Linear(6, 2)}
    if isinstance(op, nn.Module):
        layers["op"] = op
        return Net(lambda m, x: m.c(m.b(m.op(m.a(x))).relu()), **layers)
    return Net(lambda m, x: m.c(m.b(op(m.a(x))).relu()), **layers)


@pytest.mark.parametrize(
    ("op", "key", "kind"),
    [
        (Bend(), Bend, "elementwise"),
        (Turned(), Turned, "moved"),
        (torch.special.i1, torch.special.i1, "elementwise"),
    ],
    ids=["module", "moved module", "function"],
)
def test_what_is_taught_is_pruned(op, key, kind):
    _, masks = check(with_operation(op), X, gone="b", whole="a c")
    assert "for which there is no rule" in masks.whole["a"]
    nnopt.channel_rule(key, kind)
    check(with_operation(op), X, gone="a b", whole="c", trains=False)


@pytest.mark.parametrize("key", [bend, torch.ops.nnopt_tests.bend, torch.ops.nnopt_tests.bend.default])
def test_a_custom_operation_is_taught_by_any_of_its_names(key):
    called = bend if key is bend else key
    _, masks = check(with_operation(called), X, gone="b", whole="a c")
    nnopt.channel_rule(key, "elementwise")
    check(with_operation(called), X, gone="a b", whole="c")


def test_channels_that_a_taught_operation_joins_leave_together():
    nnopt.channel_rule(Product, "joined")
    layers = {"a": nn.Linear(4, 8), "b": nn.Linear(4, 8), "c": nn.Linear(8, 2)}
    model = Net(lambda m, x: m.c(m.op(m.a(x), m.b(x))), **layers, op=Product())
    _, masks = check(model, X, gone="a b", whole="c", trains=False)
    assert (masks["a"] == masks["b"]).all()


@pytest.mark.parametrize(
    ("op", "kind", "options"),
    [
        (torch.special.i0, "elementwise", {}),  # 1 at 0
        (Turned(), "elementwise", {}),  # it moves them
        (torch.special.i1, "elementwise", {"at_zero": 0.5}),
    ],
    ids=["not 0 at 0", "moves", "0 at 0"],
)
def test_a_wrong_rule_is_noticed_and_its_layer_stays(op, kind, options):
    nnopt.channel_rule(type(op) if isinstance(op, nn.Module) else op, kind, **options)
    _, masks = check(with_operation(op), X, gone="b", whole="a c", trains=False)
    reason = "in Net cannot do with fewer channels (its outputs are others than those of the masked model)"
    assert masks.whole["a"].endswith(reason)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            (Bend, "elementwize"),
            "kind must be one of elementwise, joined, moved; received 'elementwize'. "
            "Did you mean 'elementwise'?",
        ),
        (([], "moved"), "an operation to teach must be a function or a class; received list."),
    ],
)
def test_refusals(arguments, sentence):
    with pytest.raises(NnoptError) as error:
        nnopt.channel_rule(*arguments)
    assert str(error.value) == sentence


def undescribed():
    layers = {"a": nn.Linear(4, 8), "n": nn.LayerNorm(8), "b": nn.Linear(8, 6), "c": nn.Linear(6, 2)}
    return Net(lambda m, x: {"out": m.c(m.b(m.n(m.a(x))).relu().cumsum(0))}, **layers)


def test_a_recipe_of_a_model_that_no_description_fits(tmp_path):
    model, path = drawn(undescribed()), tmp_path / "small.safetensors"
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", example_input=X)
    small = nnopt.remove_nodes(model, masks, example_input=X)
    nnopt.save_small(small, path)
    fresh = undescribed()
    before = everything(fresh)
    loaded = nnopt.load_small(path, model=fresh, example_input=X)
    assert everything(fresh) == before and loaded.b.out_features == 3
    assert_close(run(small, X), run(loaded, X))
    with pytest.raises(NnoptError) as error:
        nnopt.load_small(path)
    assert str(error.value) == (
        f"{path} must hold a network that NetSpec can describe, to be built; received one with other "
        "operations. Pass model=, a model of the network before removal."
    )


def test_masks_keep_why_layers_stay_whole(tmp_path):
    model = drawn(undescribed())
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", example_input=X)
    masks.save(tmp_path / "masks.safetensors")
    loaded = nnopt.NodeMasks.load(tmp_path / "masks.safetensors")
    assert (
        dict(loaded.whole)
        == dict(masks.whole)
        == {
            "a": "normalized together with other channels by 'n' (layer_norm) in LayerNorm",
            "c": "its channels are outputs of the model",
        }
    )
    assert repr(loaded) == repr(masks) and repr(masks).endswith("1 array; 2 layers whole, see .whole)")
    with pytest.raises(TypeError):
        loaded.whole["b"] = "changed"
