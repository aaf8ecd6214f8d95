"""What data say of nodes: importance, recalibrated statistics, refitted layers."""

import copy

import numpy as np
import pytest

pytestmark = pytest.mark.torch

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812
from hypothesis import HealthCheck, assume, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import nnopt_lib as nnopt  # noqa: E402
from nnopt_lib.checks import NnoptError  # noqa: E402
from nnopt_lib.models.describe import Described  # noqa: E402
from nnopt_lib.pruning.node_masks import weight_masks  # noqa: E402
from nnopt_lib.structure.coupling import couple  # noqa: E402
from nnopt_lib.structure.spec import INPUT, NetSpec, Node  # noqa: E402
from tests.backends.torch.test_removal import randomized  # noqa: E402
from tests.networks import architectures  # noqa: E402
from tests.torch_architectures import TORCH, drawn  # noqa: E402

some_graphs = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def examples(spec, count=7, seed=0):
    random = np.random.default_rng(seed)
    outputs = spec.shapes[spec.output][0]
    x = random.standard_normal((count, *spec.input_shape), np.float32)
    return x, random.integers(0, outputs, count)


def by_node(coupling, found):
    """One number per node from importance by layer; all channels of a node must agree."""
    numbers = {}
    for layer, values in found.items():
        for node, value in zip(coupling.nodes[layer], values, strict=True):
            assert np.isnan(value) if node < 0 else numbers.setdefault(node, value) == value
    return np.array([numbers[node] for node in range(coupling.size)])


def loss_of(model, x, y):
    return nnopt.evaluate(model, x, y)["loss"]


# Importance


@some_graphs
@given(architectures(), st.integers(0, 99))
def test_the_oracle_is_the_loss_of_the_masked_network(spec, seed):
    coupling, model = couple(spec), randomized(spec, "torch", seed)
    assume(coupling.size)
    x, y = examples(spec, seed=seed)
    found = by_node(coupling, nnopt.importance(model, "oracle", x, y, device="cpu"))
    for node in range(coupling.size):
        kept = np.arange(coupling.size) != node
        masked = copy.deepcopy(model)
        weights = nnopt.get_weights(masked)
        weights |= {name: weights[name] * mask for name, mask in weight_masks(coupling, kept).items()}
        nnopt.set_weights(masked, weights)
        rise = loss_of(masked, x, y) - loss_of(model, x, y)
        assert found[node] == pytest.approx(rise, abs=2e-5)


def test_taylor_is_the_gradient_times_the_weight_of_each_example():
    spec = nnopt.mlp((5, 4), inputs=3, outputs=3, activation="gelu", batch_norm=True)
    model, (x, y) = randomized(spec, "torch", 1).eval(), examples(spec)
    by_hand = {}
    for image, label in zip(torch.tensor(x), torch.tensor(y), strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()
        for layer, norm in (("dense_1", model.batch_norm_1), ("dense_2", model.batch_norm_2)):
            change = norm.weight * norm.weight.grad + norm.bias * norm.bias.grad
            by_hand.setdefault(layer, []).append(change.detach().abs().numpy())
    found = nnopt.importance(model, "taylor", x, y, device="cpu")
    assert list(found) == ["dense_1", "dense_2"]
    for layer, changes in by_hand.items():
        np.testing.assert_allclose(found[layer], np.mean(changes, 0), rtol=1e-4, atol=1e-7)


def test_taylor_of_coupled_nodes_is_one_gate_for_all_their_layers():
    spec = nnopt.mnist1d_mlp()
    model, (x, y) = randomized(spec, "torch", 2).eval(), examples(spec)
    by_hand = []
    for image, label in zip(torch.tensor(x), torch.tensor(y), strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()
        layers = (model.dense_1, model.dense_2)
        change = sum((m.weight * m.weight.grad).sum(1) + m.bias * m.bias.grad for m in layers)
        by_hand.append(change.detach().abs().numpy())
    found = nnopt.importance(model, "taylor", x, y, device="cpu")
    np.testing.assert_allclose(found["dense_1"], np.mean(by_hand, 0), rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(found["dense_1"], found["dense_2"])


def test_apoz_counts_what_relu_lets_through():
    spec = nnopt.cnn((3,), input_shape=(2, 6, 6), outputs=2, pool=1)
    model, (x, _) = randomized(spec, "torch", 3), examples(spec)
    conv = model.conv2d_1
    with torch.no_grad():
        through = F.conv2d(torch.tensor(x), conv.weight, conv.bias, padding=1) > 0
    found = nnopt.importance(model, "apoz", x, device="cpu")
    np.testing.assert_allclose(found["conv2d_1"], through.float().mean((0, 2, 3)).numpy(), rtol=1e-6)
    bare = nnopt.build(nnopt.mlp((3, 3), inputs=2, outputs=2, activation="tanh"))
    with pytest.raises(NnoptError) as error:
        nnopt.importance(bare, "apoz", np.zeros((2, 2), np.float32))
    assert str(error.value) == (
        "score 'apoz' needs a relu behind every node to prune; received none after layer 'dense_1'."
    )


@pytest.mark.parametrize("name", TORCH)
def test_importance_of_ones_own_modules_is_a_score_for_prune(name):
    model = drawn(TORCH[name]())
    first = next(model.parameters())
    x = np.random.default_rng(0).standard_normal((4, 3, 16, 16), np.float32)
    before = first.detach().clone()
    found = nnopt.importance(model, "taylor", x, np.arange(4), device="cpu")
    assert torch.equal(before, first)
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", score=found, example_input=x)
    order = np.concatenate([found[layer][~masks[layer] & ~np.isnan(found[layer])] for layer in masks])
    stays = np.concatenate([found[layer][masks[layer] & ~np.isnan(found[layer])] for layer in masks])
    assert len(order) and np.median(order) < np.median(stays)
    weights = nnopt.importance(model, "l1", x)
    assert weights.keys() == found.keys()


@pytest.mark.keras
def test_keras_models_have_the_importance_of_their_torch_twins():
    from tests.keras_architectures import KERAS
    from tests.keras_architectures import drawn as keras_drawn

    model = keras_drawn(KERAS["lenet"]())  # flattens channels last: its dense layer reads in another order
    x, y = np.random.default_rng(0).standard_normal((4, 3, 16, 16), np.float32), np.arange(4)
    weights = nnopt.get_weights(model)
    found = nnopt.importance(model, "oracle", x, y, device="cpu")
    layer = next(iter(found))
    one = {name: np.ones(len(values), bool) for name, values in found.items()}
    one[layer][0] = False
    small = nnopt.remove_nodes(model, nnopt.Masks(one))
    rise = loss_of(small, x, y) - loss_of(model, x, y)
    assert found[layer][0] == pytest.approx(rise, abs=2e-5)
    assert all((weights[name] == value).all() for name, value in nnopt.get_weights(model).items())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tailor",), "score must be one of l1, l2, bn_scale, geometric_median, random, apoz, taylor, oracle; "
         "received 'tailor'. Did you mean 'taylor'?"),
        (("oracle",), "score 'oracle' needs examples x; received none."),
        (("taylor", np.zeros((2, 4), np.float32)), "score 'taylor' needs a label y for each of 2 examples; "
         "received none."),
        (("taylor", np.zeros((2, 4), np.float32), np.zeros(3, int)), "score 'taylor' needs a label y for each "
         "of 2 examples; received 3."),
    ],
)  # fmt: skip
def test_importance_without_what_it_needs_is_refused(arguments, sentence):
    with pytest.raises(NnoptError) as error:
        nnopt.importance(nnopt.build(nnopt.mlp((3,), inputs=4, outputs=2)), *arguments)
    assert str(error.value) == sentence


# Batch normalization


def normalized(framework):
    spec = nnopt.cnn((4, 3), input_shape=(2, 6, 6), outputs=2, pool=1, batch_norm=True)
    return spec, randomized(spec, framework, 4)


def test_recalibration_is_pytorchs_own():
    spec, model = normalized("torch")
    x, _ = examples(spec, 12)
    theirs = copy.deepcopy(model)
    torch.optim.swa_utils.update_bn(list(torch.tensor(x).split(4)), theirs)
    nnopt.recalibrate_batchnorm(model, x, batch_size=4, device="cpu")
    for name, value in nnopt.get_weights(theirs).items():
        np.testing.assert_allclose(nnopt.get_weights(model)[name], value, rtol=1e-5, atol=1e-6)
    assert not model.training or model.batch_norm_1.momentum == spec.nodes[1].options["momentum"]


@pytest.mark.keras
def test_recalibration_is_the_same_in_keras():
    (spec, ours), (_, theirs) = normalized("torch"), normalized("keras")
    x, _ = examples(spec, 13)  # a rest of one example would have no variance
    for model in (ours, theirs):
        nnopt.recalibrate_batchnorm(model, x, batch_size=4, device="cpu")
    for name, value in nnopt.get_weights(ours).items():
        np.testing.assert_allclose(nnopt.get_weights(theirs)[name], value, rtol=1e-6, atol=1e-7)


def test_recalibration_without_batch_norm_or_examples_is_refused():
    x = np.zeros((2, 4), np.float32)
    plain = nnopt.build(nnopt.mlp((3,), inputs=4, outputs=2))
    normed = nnopt.build(nnopt.mlp((3,), inputs=4, outputs=2, batch_norm=True))
    for model, some, sentence in (
        (plain, x, "a model to recalibrate needs a batch normalization; received none."),
        (normed, x[:1], "recalibrate_batchnorm needs at least two examples, for a variance; received 1."),
        (normed, x[:0], "recalibrate_batchnorm needs examples x; received none."),
    ):
        with pytest.raises(NnoptError) as error:
            nnopt.recalibrate_batchnorm(model, some)
        assert str(error.value) == sentence


# Least squares


@some_graphs
@given(architectures(), st.integers(0, 99), st.floats(0.2, 0.8))
def test_no_layer_is_worse_after_the_refit_and_zeros_stay(spec, seed, sparsity):
    assume(couple(spec).size)
    original = randomized(spec, "torch", seed)
    model, (x, _), whole = copy.deepcopy(original), examples(spec, 30, seed), nnopt.get_weights(original)
    masks = nnopt.prune(model, sparsity=sparsity, granularity="node")
    for before, after in nnopt.reconstruct(model, masks, whole, x, device="cpu").values():
        assert after <= before * (1 + 1e-4) + 1e-9
    weights = nnopt.get_weights(model)
    assert all((weights[name][~mask] == 0).all() for name, mask in masks.weights.items())


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_what_the_rest_can_say_is_said_exactly(rank):
    """The second half of the nodes repeats the first, so removing it need not change any output."""
    shape, op = (3, 8, 9)[: rank + 1], ("dense", "conv1d", "conv2d")[rank]
    size = {"units": 8} if rank == 0 else {"filters": 8, "kernel": (3, 2)[:rank], "stride": (1, 2)[:rank]}
    reads = {"units": 4} if rank == 0 else {"filters": 4, "kernel": (2, 3)[:rank], "padding": (1, 0)[:rank]}
    nodes = [
        Node("twice", op, INPUT, size),
        Node("relu", "activation", "twice"),
        Node("reads", op, "relu", reads),
    ]
    nodes += [] if rank == 0 else [Node("flat", "flatten", "reads")]
    nodes += [Node("head", "dense", nodes[-1].name, {"units": 2})]
    original = randomized(NetSpec(shape, tuple(nodes)), "torch", 5)
    weights = nnopt.get_weights(original)
    for part in ("kernel", "bias"):
        weights[f"twice/{part}"][4:] = weights[f"twice/{part}"][:4]
    nnopt.set_weights(original, weights)
    model, (x, _) = copy.deepcopy(original), examples(original.spec, 40)
    half = np.arange(8) < 4
    rest = {"reads": np.ones(4, bool)}
    masks = nnopt.prune(
        model, sparsity=4 / 12, granularity="node", score={"twice": half * 1.0, "reads": rest["reads"] * 2.0}
    )
    assert list(masks["twice"]) == list(half)
    before = np.abs(nnopt.predict(model, x) - nnopt.predict(original, x)).max()
    errors = nnopt.reconstruct(model, masks, nnopt.get_weights(original), x, device="cpu")
    assert list(errors) == ["reads"] and before > 0.1
    np.testing.assert_allclose(nnopt.predict(model, x), nnopt.predict(original, x), atol=1e-4)


def test_the_refit_is_numpys_least_squares():
    spec = nnopt.mlp((6,), inputs=4, outputs=3)
    original = randomized(spec, "torch", 6)
    model, (x, _) = copy.deepcopy(original), examples(spec, 50)
    masks = nnopt.prune(model, sparsity=0.5, granularity="node")
    nnopt.reconstruct(model, masks, nnopt.get_weights(original), x, device="cpu")
    hidden = torch.relu(original.dense_1(torch.tensor(x))).detach().double().numpy()[:, masks["dense_1"]]
    columns = np.column_stack([hidden, np.ones(len(x))])
    best = np.linalg.lstsq(columns, nnopt.predict(original, x), rcond=None)[0]
    kernel = model.dense_2.weight.detach().numpy()[:, masks["dense_1"]]
    np.testing.assert_allclose(kernel, best[:-1].T, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.dense_2.bias.detach().numpy(), best[-1], rtol=1e-3, atol=1e-4)


@pytest.mark.keras
def test_the_refit_is_the_same_in_keras():
    from tests.keras_architectures import KERAS
    from tests.keras_architectures import drawn as keras_drawn

    model = keras_drawn(KERAS["lenet"]())
    x = np.random.default_rng(0).standard_normal((20, 3, 16, 16), np.float32)
    spec, whole, outputs = nnopt.describe(model), nnopt.get_weights(model), nnopt.predict(model, x)
    described = Described.of(model)
    twin = nnopt.build(spec)
    nnopt.set_weights(twin, described.weights(model))
    twin_whole = nnopt.get_weights(twin)
    masks, twin_masks = (nnopt.prune(m, sparsity=0.5, granularity="node") for m in (model, twin))
    before = np.square(nnopt.predict(model, x) - outputs).mean()
    errors = nnopt.reconstruct(model, masks, whole, x, device="cpu")
    twin_errors = nnopt.reconstruct(twin, twin_masks, twin_whole, x, device="cpu")
    assert np.square(nnopt.predict(model, x) - outputs).mean() < before
    np.testing.assert_allclose(list(errors.values()), list(twin_errors.values()), rtol=1e-4)
    np.testing.assert_allclose(nnopt.predict(model, x), nnopt.predict(twin, x), atol=1e-4)


def test_other_weights_are_refused_and_the_model_stays():
    model, x = nnopt.build(nnopt.mlp((4,), inputs=3, outputs=2)), np.zeros((5, 3), np.float32)
    masks = nnopt.prune(model, sparsity=0.5, granularity="node")
    now, other = nnopt.get_weights(model), nnopt.build(nnopt.mlp((5,), inputs=3, outputs=2))
    with pytest.raises(NnoptError) as error:
        nnopt.reconstruct(model, masks, nnopt.get_weights(other), x)
    assert str(error.value) == (
        "weights must have the names and shapes of the model's weights; received dense_1/kernel (5, 3) for "
        "(4, 3), dense_1/bias (5,) for (4,), dense_2/kernel (2, 5) for (2, 4)."
    )
    assert all((now[name] == value).all() for name, value in nnopt.get_weights(model).items())
