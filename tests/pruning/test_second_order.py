"""One-shot pruning of whole models: what is foreseen comes true, both frameworks agree, nothing half done."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError, refuse
from nnopt_lib.pruning import layerwise
from nnopt_lib.pruning.second_order import LAYER_BY_LAYER, METHODS, OneShotMasks
from nnopt_lib.structure.spec import NetSpec, Node

pytestmark = pytest.mark.torch

UPDATING = ("obs", "woodfisher", "obc", "sparsegpt")
each_method = pytest.mark.parametrize("method", METHODS)


def data(*shape, examples=60, classes=4, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(examples, *shape)).astype(np.float32), random.integers(0, classes, examples)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 4))


def bits(model):
    return {name: tensor.detach().numpy().tobytes() for name, tensor in model.state_dict().items()}


def flat_weights(model):
    """Both kernels of `mlp` as one vector, a copy."""
    return torch.cat([model[i].weight.detach().ravel() for i in (0, 2)]).numpy()


def flat_gradients(model, x, y):
    """The gradient of each example's cross-entropy, by autograd, (examples, 112)."""
    rows = []
    for one, label in zip(torch.as_tensor(x), torch.as_tensor(y), strict=True):
        loss = nn.functional.cross_entropy(model(one), label)
        rows.append(torch.autograd.grad(loss, [model[0].weight, model[2].weight]))
    return torch.stack([torch.cat([one.ravel() for one in row]) for row in rows]).numpy()


def minimum(outputs, seed=0, examples=40, inputs=6):
    """Data, and the weights of a linear network at the minimum of the mean squared error on them."""
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(examples, inputs)), random.normal(size=(examples, outputs))
    return x, y, np.linalg.lstsq(x, y, rcond=None)[0].T


def squared_error(weight, x, y):
    return float(((x @ np.asarray(weight, np.float64).T - y) ** 2).mean())


# ------------------------------------------------------------------ what is foreseen


@pytest.mark.parametrize("outputs", [1, 3])
def test_on_a_quadratic_one_weight_costs_exactly_what_surgery_foresees(outputs):
    """w_q^2 / (2 [H^-1]_qq), H the Hessian: here by hand, from the data alone."""
    x, y, best = minimum(outputs)
    model = nn.Linear(6, outputs, bias=False).double()
    model.weight.data = torch.tensor(best)
    hessian = np.kron(np.eye(outputs), 2 / outputs * x.T @ x / len(x))
    costs = best.ravel() ** 2 / (2 * np.diag(np.linalg.inv(hessian)))
    size = 6 * outputs
    masks = nnopt.prune_one_shot(model, x, y, method="obs", loss="mse", sparsity=1 / size, dampening=0.0)
    risen = squared_error(model.weight.detach(), x, y) - squared_error(best, x, y)
    assert np.flatnonzero(~masks["kernel"].ravel()).tolist() == [int(np.argmin(costs))]
    assert masks.predicted == pytest.approx(costs.min(), abs=1e-12)
    assert risen == pytest.approx(costs.min(), abs=1e-12)


@pytest.mark.parametrize("removed", [2, 5, 12, 17])
@pytest.mark.parametrize("framework", ["torch", pytest.param("keras", marks=pytest.mark.keras)])
def test_on_a_quadratic_several_weights_cost_what_surgery_foresees(framework, removed):
    x, y, best = minimum(3)
    x, y = x.astype(np.float32), y.astype(np.float32)
    spec = NetSpec((6,), (Node("out", "dense", "input", {"units": 3, "bias": False}),))
    model = nnopt.build(spec, framework)
    nnopt.set_weights(model, {"out/kernel": np.linalg.lstsq(x, y, rcond=None)[0].T})
    before = squared_error(nnopt.get_weights(model)["out/kernel"], x, y)
    masks = nnopt.prune_one_shot(
        model, x, y, method="obs", loss="mse", sparsity=removed / 18, dampening=1e-12
    )
    after = squared_error(nnopt.get_weights(model)["out/kernel"], x, y)
    assert masks.removed == removed and after - before == pytest.approx(masks.predicted, abs=1e-6)
    # No other values of the kept weights would do better.
    for output, kept in enumerate(masks["out/kernel"]):
        free = np.linalg.lstsq(x[:, kept], y[:, output], rcond=None)[0] if kept.any() else []
        np.testing.assert_allclose(nnopt.get_weights(model)["out/kernel"][output, kept], free, atol=1e-5)


def test_obd_foresees_what_the_mask_costs_where_inputs_are_uncorrelated():
    x, y, _ = minimum(2)
    x, _ = np.linalg.qr(x)
    model = nn.Linear(6, 2, bias=False).double()
    best = np.linalg.lstsq(x, y, rcond=None)[0].T
    model.weight.data = torch.tensor(best)
    masks = nnopt.prune_one_shot(model, x, y, method="obd", loss="mse", sparsity=0.5)
    risen = squared_error(model.weight.detach(), x, y) - squared_error(best, x, y)
    assert risen == pytest.approx(masks.predicted, abs=1e-12)
    assert np.array_equal(model.weight.detach().numpy(), best * masks["kernel"])


@pytest.mark.parametrize("block_size", [None, "network", 1, 10])
def test_woodfisher_foresees_the_quadratic_form_of_its_change(block_size):
    """With the Fisher matrix made by hand, from autograd's gradients, and never by Woodbury."""
    model, (x, y) = mlp().double(), data(12)
    x = x.astype(np.float64)
    w, gradients = flat_weights(model), flat_gradients(model, x, y)
    layer = np.repeat([0, 1], [84, 28])
    place = np.concatenate([np.arange(84), np.arange(28)])
    block = np.zeros(112, int) if block_size == "network" else layer * 100 + place // (block_size or 100)
    fisher = gradients.T @ gradients / len(x) * (block[:, None] == block) + 1e-3 * np.eye(112)
    masks = nnopt.prune_one_shot(
        model, x, y, method="woodfisher", sparsity=0.6, dampening=1e-3, block_size=block_size
    )
    new = flat_weights(model)
    assert masks.predicted == pytest.approx(0.5 * (new - w) @ fisher @ (new - w), rel=1e-6)
    costs = w**2 / (2 * np.diag(np.linalg.inv(fisher)))
    kept = np.concatenate([mask.ravel() for mask in masks.values()])
    assert np.array_equal(kept, costs > np.sort(costs)[66])
    np.testing.assert_allclose((fisher @ (new - w))[kept], 0, atol=1e-9)  # the best change for these masks


def test_woodfisher_takes_a_loss_of_ones_own_without_labels():
    x, _ = data(12)
    models = [mlp(), mlp()]
    power = lambda outputs, labels: outputs.square().mean()
    own = nnopt.prune_one_shot(models[0], x, method="woodfisher", loss=power, sparsity=0.5)
    zeros = np.zeros((60, 4), np.float32)
    named = nnopt.prune_one_shot(models[1], x, zeros, method="woodfisher", loss="mse", sparsity=0.5)
    assert own == named and own.predicted == pytest.approx(named.predicted, rel=1e-5)


# ------------------------------------------------------------------ counts, and what is removed


@each_method
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 0.99])
def test_exactly_as_many_weights_go_as_were_asked_for(method, sparsity):
    model, (x, y) = mlp(), data(12)
    masks = nnopt.prune_one_shot(model, x, y, method=method, sparsity=sparsity)
    kernels = (model[0].weight, model[2].weight)
    assert isinstance(masks, OneShotMasks) and list(masks) == ["0/kernel", "2/kernel"]
    if method in LAYER_BY_LAYER:
        counts = [round(sparsity * 84), round(sparsity * 28)]
        if method == "wanda":
            counts = [7 * round(sparsity * 12), 4 * round(sparsity * 7)]
        assert [int((~mask).sum()) for mask in masks.values()] == counts
        assert masks.predicted is None and list(masks.errors) == ["0", "2"]
    else:
        assert masks.removed == round(sparsity * 112) and masks.predicted >= 0 and masks.errors == {}
    for mask, kernel in zip(masks.values(), kernels, strict=True):
        gone = kernel.detach()[torch.tensor(~mask)]
        assert (gone == 0).all() and not torch.signbit(gone).any()


@each_method
def test_nothing_but_the_named_kernels_changes_and_methods_that_only_score_update_nothing(method):
    model, (x, y) = mlp(), data(12)
    before = copy.deepcopy(model)
    masks = nnopt.prune_one_shot(model, x, y, method=method, sparsity=0.5, names=["2/kernel"])
    assert list(masks) == ["2/kernel"]
    assert torch.equal(model[0].weight, before[0].weight) and torch.equal(model[2].bias, before[2].bias)
    masked = before[2].weight * torch.tensor(masks["2/kernel"])
    assert torch.equal(model[2].weight, masked) == (method not in UPDATING)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())


@each_method
def test_scope_skip_and_a_sparsity_for_each_layer(method):
    x, y = data(12)
    if method in ("obd", "obs", "woodfisher"):
        masks = nnopt.prune_one_shot(mlp(), x, y, method=method, sparsity=0.25, scope="layer")
        assert masks.sparsities() == {"0/kernel": 0.25, "2/kernel": 0.25}
    masks = nnopt.prune_one_shot(mlp(), x, y, method=method, sparsity=0.25, skip=["2"])
    assert masks.sparsities() == {"0/kernel": 0.25}
    masks = nnopt.prune_one_shot(mlp(), x, y, method=method, sparsity={"0": 0.5, "2": 3 / 7})
    assert masks.sparsities() == {"0/kernel": 0.5, "2/kernel": 3 / 7}
    masks = nnopt.prune_one_shot(mlp(), x, y, method=method, sparsity={"2": 1 / 7})
    assert masks.sparsities() == {"2/kernel": 1 / 7}


@each_method
def test_n_of_m_in_every_run(method):
    model, (x, y) = mlp(), data(12)
    masks = nnopt.prune_one_shot(model, x, y, method=method, granularity="2:4", names=["0/kernel"])
    assert (masks["0/kernel"].reshape(7, 3, 4).sum(2) == 2).all()
    assert np.array_equal(model[0].weight.detach().numpy() != 0, masks["0/kernel"])


@each_method
def test_removed_stays_removed_and_counts(method):
    """Weights that have come back since, as they do without `hold`, have no part in it."""
    model, (x, y) = mlp(), data(12)
    first = nnopt.prune_one_shot(model, x, y, method=method, sparsity=0.25)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for layer, mask in zip((model[0], model[2]), first.values(), strict=True):
            layer.weight += torch.tensor(~mask) * 0.5
    options = {"method": method, "sparsity": 0.75, "previous": first}
    second = nnopt.prune_one_shot(model, x, y, **options)
    assert second.removed == nnopt.prune_one_shot(mlp(), x, y, method=method, sparsity=0.75).removed
    for name, mask in second.items():
        assert not (mask & ~first[name]).any()
    assert nnopt.prune_one_shot(masked, x, y, **options) == second and bits(masked) == bits(model)
    for layer, mask in zip((model[0], model[2]), second.values(), strict=True):
        assert not layer.weight.detach().numpy()[~mask].any()


@each_method
@pytest.mark.parametrize("n", [1, 2])
def test_runs_lose_more_of_what_they_had_left(method, n):
    """Also where inputs are so alike that what makes up for others would soon be large again."""
    for seed in range(8):
        model, (x, y) = mlp(), data(12, seed=seed)
        x = x[:, :2].repeat(6, 1) + 0.5 * x
        options = {"method": method, "names": ["0/kernel"]}
        first = nnopt.prune_one_shot(model, x, y, granularity="3:4", **options)
        second = nnopt.prune_one_shot(model, x, y, granularity=f"{n}:4", previous=first, **options)
        assert first.sparsity == 0.25 and second.sparsity == 1 - n / 4
        assert not (second["0/kernel"] & ~first["0/kernel"]).any()


def test_what_was_removed_before_is_not_made_up_for_by_woodfisher():
    """The change is the best one on what was there, by a matrix that knows nothing else."""
    model, (x, y), random = mlp().double(), data(12, examples=30), np.random.default_rng(0)
    x = x.astype(np.float64)
    previous = nnopt.Masks(
        {"0/kernel": random.random((7, 12)) < 0.5, "2/kernel": random.random((4, 7)) < 0.5}
    )
    nnopt.apply_masks(model, previous)
    alive = np.concatenate([mask.ravel() for mask in previous.values()])
    w, gradients = flat_weights(model), flat_gradients(model, x, y)
    fisher = (gradients.T @ gradients / len(x) + 1e-3 * np.eye(112))[np.ix_(alive, alive)]
    options = {"dampening": 1e-3, "block_size": "network", "previous": previous}
    masks = nnopt.prune_one_shot(model, x, y, method="woodfisher", sparsity=0.75, **options)
    change = (flat_weights(model) - w)[alive]
    kept = np.concatenate([mask.ravel() for mask in masks.values()])[alive]
    costs = w[alive] ** 2 / (2 * np.diag(np.linalg.inv(fisher)))
    assert np.array_equal(kept, costs > np.sort(costs)[83 - int((~alive).sum())])
    np.testing.assert_allclose((fisher @ change)[kept], 0, atol=1e-9)
    assert masks.predicted == pytest.approx(0.5 * change @ fisher @ change, rel=1e-9)
    assert not flat_weights(model)[~alive].any()


def test_what_was_removed_before_costs_nothing_again_and_moves_nothing():
    """All of the second step's work is done on the network that the first has left."""
    x, y, best = minimum(3)
    model = nn.Linear(6, 3, bias=False).double()
    model.weight.data = torch.tensor(best)
    options = {"method": "obs", "loss": "mse", "dampening": 0.0}
    first = nnopt.prune_one_shot(model, x, y, sparsity=5 / 18, **options)
    second = nnopt.prune_one_shot(model, x, y, sparsity=11 / 18, previous=first, **options)
    whole = nn.Linear(6, 3, bias=False).double()
    whole.weight.data = torch.tensor(best)
    at_once = nnopt.prune_one_shot(whole, x, y, sparsity=11 / 18, **options)
    assert second == at_once
    assert first.predicted + second.predicted == pytest.approx(at_once.predicted, rel=1e-9)
    np.testing.assert_allclose(model.weight.detach(), whole.weight.detach(), atol=1e-12)


# ------------------------------------------------------------------ any model, both frameworks


SPECS = {
    "mlp": (nnopt.mlp((9, 6), inputs=12, outputs=4, activation="tanh"), (12,)),
    "cnn": (
        NetSpec(
            (4, 7, 6),
            (
                Node(
                    "conv2d_1", "conv2d", "input", {"filters": 6, "kernel": (3, 2), "padding": 1, "groups": 2}
                ),
                Node("batch_norm_1", "batch_norm", "conv2d_1"),
                Node("relu_1", "activation", "batch_norm_1"),
                Node("conv2d_2", "conv2d", "relu_1", {"filters": 5, "kernel": 3, "stride": 2}),
                Node("flatten_1", "flatten", "conv2d_2"),
                Node("out", "dense", "flatten_1", {"units": 4}),
            ),
        ),
        (4, 7, 6),
    ),
}


@pytest.mark.keras
@pytest.mark.parametrize("kind", SPECS)
@each_method
def test_both_frameworks_give_the_same_masks_and_weights_to_rounding(method, kind):
    spec, shape = SPECS[kind]
    x, y = data(*shape, examples=40)
    random = np.random.default_rng(1)
    weights = {
        name: (value + 0.1 * random.random(value.shape)).astype(np.float32)  # statistics and scales as well
        for name, value in nnopt.get_weights(nnopt.build(spec, seed=3)).items()
    }
    found = []
    for framework in ("torch", "keras"):
        model = nnopt.build(spec, framework)
        nnopt.set_weights(model, weights)
        masks = nnopt.prune_one_shot(model, x, y, method=method, sparsity=0.6, dampening=damped(method))
        found.append((masks, nnopt.get_weights(model)))
    (masks, after), (others, others_after) = found
    assert masks == others
    for name, value in after.items():
        np.testing.assert_allclose(value, others_after[name], atol=2e-4 * abs(value).max(), err_msg=name)
    if masks.predicted is not None:
        assert masks.predicted == pytest.approx(others.predicted, rel=1e-3)
    for layer, errors in masks.errors.items():
        assert errors == pytest.approx(others.errors[layer], rel=1e-3, abs=1e-6)


def damped(method):
    """Enough that float32 gradients of two frameworks are not told apart by what is inverted."""
    return {"obs": 1e-2, "woodfisher": 1e-2, "obc": 0.01, "sparsegpt": 0.01}.get(method)


class Scaled(nn.Module):
    """A layer of nobody's library."""

    def __init__(self, width):
        super().__init__()
        self.inner, self.gain = nn.Linear(width, width, bias=False), nn.Parameter(torch.ones(width))

    def forward(self, x):
        return torch.sin(self.inner(x)) * self.gain


class Residual(nn.Module):
    """Shortcuts, a custom module, one that is called twice, and an output through an attribute."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.body, self.own, self.head = nn.Conv2d(8, 8, 3, padding=1, groups=4), Scaled(8), nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = (x + self.body(x) + self.body(torch.tanh(x))).mean((2, 3))
        return self.head(x + self.own(x))


@each_method
def test_any_model_that_runs(method):
    torch.manual_seed(0)
    model, (x, y) = Residual(), data(2, 6, 6, examples=30)
    masks = nnopt.prune_one_shot(model, x, y, method=method, sparsity=0.5)
    kernels = ["stem/kernel", "body/kernel", "own.inner/kernel", "head/kernel"]
    assert sorted(masks) == sorted(kernels) and masks.whole == {}
    assert masks.removed == 192 or method == "wanda"
    for name, mask in masks.items():
        weight = model.get_submodule(name.removesuffix("/kernel")).weight.detach().numpy()
        assert np.array_equal(weight != 0, mask) and np.isfinite(weight).all()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    handle = nnopt.hold(model, masks, optimizer)
    nn.functional.cross_entropy(model(torch.as_tensor(x)), torch.as_tensor(y)).backward()
    optimizer.step()
    handle.remove()
    assert not model.stem.weight.detach().numpy()[~masks["stem/kernel"]].any()


def test_inputs_of_several_arguments():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(5, 4), nn.Linear(3, 4)

        def forward(self, a, b):
            return self.left(a) + self.right(b)

    (a, y), (b, _) = data(5), data(3)
    found = []
    for x in ((a, b), {"b": b, "a": a}):
        for method in METHODS:
            torch.manual_seed(0)
            found.append(nnopt.prune_one_shot(Pair(), x, y, method=method, sparsity=0.5))
    assert found[: len(METHODS)] == found[len(METHODS) :]


def test_updates_help_a_trained_network():
    """On images that played no part in it."""
    digits = nnopt.load_data("digits")
    model = nnopt.build(nnopt.mlp((24,), inputs=64, outputs=10))
    nnopt.fit(model, digits, nnopt.Training(epochs=15, learning_rate=0.1, momentum=0.9, batch_size=50))
    weights, x, y = nnopt.get_weights(model), digits.x_train[:300], digits.y_train[:300]
    losses = {}
    for method in (*METHODS, "magnitude"):
        nnopt.set_weights(model, weights)
        if method == "magnitude":
            nnopt.prune(model, sparsity=0.7)
        else:
            nnopt.prune_one_shot(model, x, y, method=method, sparsity=0.7)
        losses[method] = nnopt.evaluate(model, digits.x_test, digits.y_test)["loss"]
    assert max(losses["obs"], losses["woodfisher"]) < min(losses["magnitude"], losses["obd"])
    assert max(losses["obc"], losses["sparsegpt"]) < losses["wanda"]


# ------------------------------------------------------------------ refusals


REFUSED = {
    "unknown method": (
        {"method": "obz"},
        "method must be one of obd, obs, woodfisher, obc, sparsegpt, wanda; received 'obz'. Did you mean 'obs'?",
    ),
    "no labels": (
        {"method": "woodfisher", "y": None},
        "method 'woodfisher' needs a label y for each of 60 examples; received none.",
    ),
    "too few labels": (
        {"method": "obc", "y": np.zeros(3, int)},
        "method 'obc' needs a label y for each of 60 examples; received 3.",
    ),
    "no examples": ({"x": np.zeros((0, 12), np.float32)}, "method 'obs' needs examples x; received none."),
    "labels for positions": (
        {"y": np.zeros((60, 2), int)},
        "method 'obs' with cross-entropy needs one label for each example; received labels of shape (60, 2). "
        "Pass method='woodfisher'.",
    ),
    "unknown loss": (
        {"loss": "cross_entrpy"},
        "loss must be one of cross_entropy, mse; received 'cross_entrpy'. Did you mean 'cross_entropy'?",
    ),
    "a loss of unknown curvature": (
        {"method": "obd", "loss": lambda outputs, labels: outputs.mean()},
        "method 'obd' needs a loss whose curvature is known, 'cross_entropy' or 'mse'; received a function. "
        "Pass one of them, or method='woodfisher'.",
    ),
    "dampening of another": (
        {"method": "wanda", "dampening": 0.1},
        "dampening belongs to methods obs, woodfisher, obc, sparsegpt; received method='wanda'. Leave it out.",
    ),
    "blocks of another": (
        {"method": "obc", "block_size": 8},
        "block_size belongs to methods woodfisher, sparsegpt; received method='obc'. Leave it out.",
    ),
    "no block": (
        {"method": "woodfisher", "block_size": 0},
        "block_size must be a whole number, at least 1; received 0.",
    ),
    "a network as sparsegpt's block": (
        {"method": "sparsegpt", "block_size": "network"},
        "block_size must be a whole number, at least 1; received 'network'.",
    ),
    "dampening of nothing": (
        {"method": "woodfisher", "dampening": 0.0},
        "dampening must be a finite number, above 0; received 0.",
    ),
    "dampening below 0": ({"dampening": -1.0}, "dampening must be a finite number, at least 0; received -1."),
    "dampening without end": (
        {"dampening": np.inf},
        "dampening must be a finite number, at least 0; received inf.",
    ),
    "examples that do not span": (
        {"x": data(12)[0][:2], "y": data(12)[1][:2], "dampening": 0.0},
        "examples must span all weights for their curvature to have an inverse; received examples that leave "
        "directions flat, and dampening=0. Pass more examples, or a larger dampening.",
    ),
    "examples that do not span a layer": (
        {"method": "obc", "x": data(12)[0][:5], "y": None, "dampening": 0.0},
        "calibration data must span the inputs of 0 where dampening adds nothing to them; received rank 5 of 12 "
        "inputs. Pass dampening=0.01, or more calibration data.",
    ),
    "a percent": (
        {"sparsity": 80},
        "sparsity must be at least 0 and below 1; received 80. For 80 %, pass 0.8.",
    ),
    "no sparsity": ({"sparsity": None}, "sparsity must be at least 0 and below 1; received None."),
    "scope of a method by layer": (
        {"method": "obc", "scope": "global"},
        "method 'obc' prunes layer by layer; received scope='global'. Leave scope out.",
    ),
    "unknown scope": ({"scope": "all"}, "scope must be one of global, layer; received 'all'."),
    "unknown name": (
        {"names": ["0/kernl"]},
        "the model has no weight '0/kernl'. Did you mean '0/kernel'?",
    ),
    "no name": (
        {"names": []},
        "names must list at least one weight; received none. Leave it out for all kernels.",
    ),
    "inputs that m does not divide": (
        {"sparsity": None, "granularity": "2:4"},
        "granularity '2:4' needs inputs in multiples of 4; received 2/kernel of shape (4, 7). "
        "Leave this layer out by names=.",
    ),
    "masks of another model": (
        {"previous": nnopt.Masks({"0/kernel": np.ones((3, 12), bool)})},
        "masks must have the names and shapes of the model's weights; received 0/kernel (3, 12) for (7, 12).",
    ),
    "masks of other layers": (
        {"previous": nnopt.Masks({"0/kernel": np.ones((7, 12), bool)}), "names": ["2/kernel"]},
        "masks must have the names and shapes of the model's weights; received 0/kernel (7, 12) for none, "
        "2/kernel missing for (4, 7).",
    ),
    "less than before": (
        {"previous": nnopt.Masks({"0/kernel": np.zeros((7, 12), bool), "2/kernel": np.ones((4, 7), bool)})},
        "sparsity must not fall, and the previous masks removed 84 weights of all layers together; received a "
        "target of 56. Pass a higher sparsity, or leave previous out.",
    ),
    "no batch": ({"batch_size": 0}, "batch_size must be a whole number, at least 1; received 0."),
    "a pattern that fits nothing": (
        {"skip": ["3"]},
        "skip names no layer with prunable weights by '3'. Choose from 0, 2.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_calls_are_refused_in_one_sentence_and_change_nothing(case):
    options, sentence = REFUSED[case]
    model, (x, y) = mlp(), data(12)
    before = bits(model)
    with pytest.raises(NnoptError) as error:
        nnopt.prune_one_shot(model, **({"x": x, "y": y, "method": "obs", "sparsity": 0.5} | options))
    assert str(error.value) == sentence
    assert bits(model) == before and model.training


@each_method
def test_what_breaks_halfway_leaves_the_model_as_it_was(method, monkeypatch):
    """Even where the first layer was pruned already, and what was removed before had come back."""
    model, (x, y) = mlp(), data(12)
    if method in LAYER_BY_LAYER:
        of_layer = getattr(layerwise, method)

        def once(*args, **options):
            if options["name"] == "2":
                refuse("this must break")
            return of_layer(*args, **options)

        monkeypatch.setattr(layerwise, method, once)
    else:
        with torch.no_grad():
            model[2].weight[1, 1] = np.nan
    before, flags = bits(model), [p.requires_grad for p in model.parameters()]
    previous = nnopt.Masks({"0/kernel": np.eye(7, 12) == 0, "2/kernel": np.ones((4, 7), bool)})
    with pytest.raises(NnoptError) as error:
        nnopt.prune_one_shot(model, x, y, method=method, sparsity=0.5, previous=previous)
    assert str(error.value).startswith(
        ("this must break", "the loss must be finite", "gradients must be finite")
    )
    assert bits(model) == before and [p.requires_grad for p in model.parameters()] == flags


def test_gradients_that_are_no_numbers_name_the_layer():
    model, (x, y) = mlp(), data(12)
    x[7, 3] = np.inf
    with pytest.raises(NnoptError) as error:
        nnopt.prune_one_shot(model, x, y, method="woodfisher", sparsity=0.5)
    assert str(error.value).startswith("the loss must be finite; received")


def test_too_many_weights_for_a_whole_inverse():
    model = nn.Linear(100, 51)
    x, y = data(100, classes=51)
    with pytest.raises(NnoptError) as error:
        nnopt.prune_one_shot(model, x, y, method="obs", sparsity=0.5)
    assert str(error.value) == (
        "method 'obs' inverts the curvature of all weights and takes at most 5,000; received 5,100. "
        "Pass method='woodfisher', or fewer layers by names=."
    )


def test_masks_know_what_was_foreseen_and_travel_as_masks(tmp_path):
    model, (x, y) = mlp(), data(12)
    masks = nnopt.prune_one_shot(model, x, y, method="obd", sparsity=0.5)
    masks.save(tmp_path / "masks")
    again = OneShotMasks.load(tmp_path / "masks")
    assert again == masks == nnopt.Masks.load(tmp_path / "masks")
    assert again.predicted is None and again.errors == {} and again.whole == {}
    copied = copy.deepcopy(masks)
    assert copied == masks and copied.predicted == masks.predicted
