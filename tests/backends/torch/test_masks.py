"""Pruning PyTorch models: masks against torch's own, zeros under every optimizer and loop, copies and exports."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from tests.networks import arrays

pytestmark = pytest.mark.torch


# ---------------------------------------------------------------- models that nobody described


class Tied(nn.Module):
    """Words in, words out, by one and the same weights."""

    def __init__(self):
        super().__init__()
        self.embedding, self.hidden, self.out = nn.Embedding(20, 6), nn.Linear(6, 6), nn.Linear(6, 20)
        self.out.weight = self.embedding.weight

    def forward(self, words):
        return self.out(torch.tanh(self.hidden(self.embedding(words).mean(1))))


def mlp():
    return nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 4))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 8, (3, 2), padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, groups=2),
        nn.ConvTranspose2d(4, 6, 2),
        nn.Flatten(),
        nn.Linear(6 * 4 * 5, 4),
    )


def shared():
    layer = nn.Linear(12, 12)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(12, 4))


MODELS = {
    "mlp": (mlp, lambda n: torch.randn(n, 12), ["0/kernel", "2/kernel"]),
    "convolutional": (
        convolutional,
        lambda n: torch.randn(n, 3, 5, 5),
        ["0/kernel", "3/kernel", "4/kernel", "6/kernel"],
    ),
    "tied": (Tied, lambda n: torch.randint(0, 20, (n, 3)), ["embedding/kernel", "hidden/kernel"]),
    "shared": (shared, lambda n: torch.randn(n, 12), ["0/kernel", "3/kernel"]),
}
each_model = pytest.mark.parametrize("kind", MODELS)


def make(kind, seed=0):
    torch.manual_seed(seed)
    model, inputs, names = MODELS[kind]
    return model(), inputs(16), names


def kernels(model):
    """Every kernel once, by the parameter itself."""
    layers = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)
    return list({id(m.weight): m.weight for m in model.modules() if isinstance(m, layers)}.values())


def bits(tensor):
    return (
        tensor.detach().numpy(force=True).tobytes()
        if tensor.dtype != torch.bfloat16
        else bits(tensor.view(torch.int16))
    )


def assert_zeros(model, masks, optimizer=None):
    """What is removed is +0, in weights and, where an optimizer is given, in all its state."""
    count = 0
    for mask, parameter in zip(masks.values(), kernels(model), strict=True):
        removed = torch.tensor(~mask)
        gone = parameter.detach()[removed]
        assert (gone == 0).all() and not torch.signbit(gone).any()
        count += gone.numel()
        if optimizer is not None:
            states = [
                s for s in optimizer.state[parameter].values() if getattr(s, "shape", None) == mask.shape
            ]
            assert states
            assert all((state[removed] == 0).all() for state in states)
    assert count == masks.removed > 0


# ---------------------------------------------------------------- which masks


@each_model
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9, 0.99])
def test_global_masks_equal_torchs_own_on_weights_without_ties(kind, sparsity):
    model, _, names = make(kind)
    theirs = copy.deepcopy(model)
    pairs = []
    for layer in theirs.modules():
        kernel = isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding))
        if kernel and not any(layer.weight is other.weight for other, _ in pairs):
            pairs.append((layer, "weight"))
    amount = round(sparsity * sum(layer.weight.numel() for layer, _ in pairs))
    torch_prune.global_unstructured(pairs, torch_prune.L1Unstructured, amount=amount)
    masks = nnopt.prune(model, sparsity=sparsity)
    assert list(masks) == names and masks.removed == amount
    for mask, (layer, _) in zip(masks.values(), pairs, strict=True):
        assert np.array_equal(mask, layer.weight_mask.numpy().astype(bool))
    assert_zeros(model, masks)


@each_model
@pytest.mark.parametrize("sparsity", [0.25, 0.9])
def test_layer_masks_equal_torchs_own_on_weights_without_ties(kind, sparsity):
    model, _, _ = make(kind, seed=1)
    originals = [parameter.detach().clone() for parameter in kernels(model)]
    masks = nnopt.prune(model, sparsity=sparsity, scope="layer")
    for mask, weight in zip(masks.values(), originals, strict=True):
        own = nn.Module()
        own.weight = nn.Parameter(weight.clone())
        torch_prune.l1_unstructured(own, "weight", amount=sparsity)
        assert np.array_equal(mask, own.weight_mask.numpy().astype(bool))
    kept = [torch.tensor(mask) for mask in masks.values()]
    for parameter, weight, mask in zip(kernels(model), originals, kept, strict=True):
        assert torch.equal(parameter.detach(), torch.where(mask, weight, 0))  # kept weights are untouched


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_ranked_by_their_own_numbers(kind):
    """In bfloat16 many weights are equal: the exact count holds, the earlier is kept."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 5)).to(kind)
    flat = np.concatenate([p.detach().double().abs().numpy().ravel() for p in kernels(model)])
    order = np.lexsort((-np.arange(flat.size), flat))
    expected = np.ones(flat.size, bool)
    expected[order[: round(0.6 * flat.size)]] = False
    masks = nnopt.prune(model, sparsity=0.6)
    assert np.array_equal(np.concatenate([mask.ravel() for mask in masks.values()]), expected)
    assert all(p.dtype == kind for p in model.parameters())
    assert_zeros(model, masks)


def test_order_is_that_of_the_canonical_layout_whatever_the_memory_is():
    """In channels-last memory the flat order of a kernel is another one."""
    model = nn.Conv2d(4, 3, 2, bias=False)
    nn.init.constant_(model.weight, 0.5)
    model = model.to(memory_format=torch.channels_last)
    masks = nnopt.prune(model, sparsity=0.5)
    assert masks["kernel"].ravel().tolist() == [True] * 24 + [False] * 24
    assert (model.weight.detach().numpy() != 0).ravel().tolist() == [True] * 24 + [False] * 24


def test_frozen_parameters_are_left_alone():
    model = mlp()
    model[0].weight.requires_grad_(False)
    before = bits(model[0].weight)
    assert nnopt.prunable(model) == ["2/kernel"]
    masks = nnopt.prune(model, sparsity=0.5)
    assert list(masks) == ["2/kernel"] and masks.size == 28 and masks.removed == 14
    assert bits(model[0].weight) == before


def test_biases_and_normalization_only_by_name():
    model = convolutional()
    assert not [name for name in nnopt.prunable(model) if "kernel" not in name]
    masks = nnopt.prune(model, sparsity=0.5, names=["1/scale", "6/bias"])
    assert masks.size == 12 and masks.removed == 6
    assert int((model[1].weight == 0).sum() + (model[6].bias == 0).sum()) == 6


def test_scores_of_ones_own():
    model = mlp()
    scores = {"0/kernel": np.arange(84.0).reshape(7, 12), "2/kernel": -np.arange(28.0).reshape(4, 7)}
    masks = nnopt.prune(model, sparsity=28 / 112, score=scores)
    assert masks["0/kernel"].all() and not masks["2/kernel"].any()  # of the two zeros the earlier is kept
    assert_zeros(model, masks)


def test_random_scores_follow_the_seed():
    masks = [nnopt.prune(mlp(), sparsity=0.5, score="random", seed=seed) for seed in (0, 0, 1)]
    assert masks[0] == masks[1] and masks[0] != masks[2] and masks[2].removed == 56


def test_n_of_m_runs_along_the_inputs():
    model = nn.Sequential(nn.Conv2d(8, 6, (3, 2)), nn.Flatten(), nn.LazyLinear(5))
    model(torch.zeros(1, 8, 5, 5))
    masks = nnopt.prune(model, granularity="2:4", names=["0/kernel"])
    kept = (model[0].weight.detach() != 0).reshape(6, 2, 4, 3, 2).sum(2)
    assert (kept == 2).all() and masks.sparsity == 0.5


def test_the_lines_of_the_documentation_run_as_they_stand():
    lines = """
import torch, nnopt_lib as nnopt
model = torch.nn.Sequential(torch.nn.Linear(784, 300), torch.nn.ReLU(), torch.nn.Linear(300, 10))
masks = nnopt.prune(model, sparsity=0.9)                      # global magnitude, applied to the model's own weights
first = masks.sparsity                                        # exactly round(0.9 n) / n
optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
nnopt.hold(model, masks, optimizer)                           # zeros stay zero in any training loop, state included
masks = nnopt.prune(model, sparsity=0.95, previous=masks)     # removed stays removed
"""
    names = {}
    exec(lines, names)
    size = 784 * 300 + 300 * 10
    assert names["first"] == round(0.9 * size) / size
    assert names["masks"].removed == round(0.95 * size)
    assert_zeros(names["model"], names["masks"])


# ---------------------------------------------------------------- holding

OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.005, momentum=0.9, centered=True),
    "fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
}
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
LOOPS = ("plain", "accumulation", "compiled model", "compiled step")


def train(model, x, optimizer, steps, loop="plain", check=lambda: None):
    """A loop as a reader writes it, on random labels; `check` is called after every step."""
    labels = torch.randint(0, 4, (len(x),))
    loss_of = nn.CrossEntropyLoss()

    def step():
        optimizer.zero_grad()
        loss = loss_of(model(x), labels)
        loss.backward()
        optimizer.step()

    if loop == "compiled model":
        forward = torch.compile(model, backend="aot_eager")
    elif loop == "compiled step":
        step = torch.compile(step, backend="eager")
    for number in range(steps):
        if loop == "accumulation":
            loss_of(model(x[number % 4 :: 4]), labels[number % 4 :: 4]).backward()
            if number % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
        elif loop == "compiled model":
            optimizer.zero_grad()
            loss_of(forward(x), labels).backward()
            optimizer.step()
        else:
            step()
        check()


@each_optimizer
def test_zeros_are_lost_without_hold(optimizer):
    """Else the tests below would show nothing."""
    model, x, _ = make("mlp")
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    train(model, x, optimizer, 3)
    masks = nnopt.prune(model, sparsity=0.8)
    for parameter in model.parameters():  # no gradient reaches what is removed: memory alone moves it
        parameter.register_hook(lambda grad, p=parameter: grad * (p != 0))
    train(model, x, optimizer, 3)
    with pytest.raises(AssertionError):
        assert_zeros(model, masks)


@pytest.mark.parametrize("loop", LOOPS)
@each_optimizer
def test_zeros_stay_zero_over_200_steps(optimizer, loop):
    model, x, _ = make("mlp")
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    train(model, x, optimizer, 8, "accumulation")  # so that there is state at the places to be removed
    masks = nnopt.prune(model, sparsity=0.8)
    nnopt.hold(model, masks, optimizer)
    assert_zeros(model, masks, optimizer)  # at once, not only after the next step
    before = [parameter.detach().clone() for parameter in kernels(model)]
    train(model, x, optimizer, 200, loop, lambda: assert_zeros(model, masks, optimizer))
    for mask, parameter, old in zip(masks.values(), kernels(model), before, strict=True):
        kept = torch.tensor(mask)
        assert (parameter.detach()[kept] != old[kept]).float().mean() > 0.5  # kept weights do learn


@each_model
def test_zeros_stay_zero_in_every_kind_of_layer(kind):
    model, x, _ = make(kind)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1)
    masks = nnopt.prune(model, sparsity=0.7)
    nnopt.hold(model, masks, optimizer)
    train(model, x, optimizer, 30, check=lambda: assert_zeros(model, masks, optimizer))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_zeros_stay_zero_in_other_types(kind):
    model, x, _ = make("mlp")
    model, x = model.to(kind), x.to(kind)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    masks = nnopt.prune(model, sparsity=0.7)
    nnopt.hold(model, masks, optimizer)
    train(model, x, optimizer, 30, check=lambda: assert_zeros(model, masks, optimizer))


def test_zeros_stay_zero_where_gradients_are_not_numbers():
    model, x, _ = make("mlp")
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    masks = nnopt.prune(model, sparsity=0.7)
    nnopt.hold(model, masks, optimizer)
    x[0, 0] = np.nan
    train(model, x, optimizer, 3, check=lambda: assert_zeros(model, masks, optimizer))


def test_loading_an_optimizers_state_does_not_bring_removed_weights_back():
    model, x, _ = make("mlp")
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    train(model, x, optimizer, 5)
    dense = copy.deepcopy(optimizer.state_dict())
    masks = nnopt.prune(model, sparsity=0.7)
    nnopt.hold(model, masks, optimizer)
    optimizer.load_state_dict(dense)
    train(model, x, optimizer, 5, check=lambda: assert_zeros(model, masks, optimizer))


def test_remove_ends_it_and_holding_again_replaces():
    model, x, _ = make("mlp")
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    first = nnopt.prune(model, sparsity=0.5)
    second = nnopt.shuffle_masks(first, seed=0)
    old = nnopt.hold(model, first, optimizer)
    new = nnopt.hold(model, second, optimizer)
    train(model, x, optimizer, 5, check=lambda: assert_zeros(model, second, optimizer))
    with pytest.raises(AssertionError):
        assert_zeros(model, first)  # what only the first removed has grown again
    old.remove()  # has ended already: the newer hold goes on
    train(model, x, optimizer, 5, check=lambda: assert_zeros(model, second, optimizer))
    new.remove()
    assert_zeros(model, second)  # letting go changes nothing by itself
    train(model, x, optimizer, 5)
    with pytest.raises(AssertionError):
        assert_zeros(model, second)
    new.remove()  # a second time, no harm


def test_two_optimizers_hold_their_own_parts():
    model, x, _ = make("mlp")
    optimizers = [torch.optim.SGD(model[i].parameters(), 0.05, momentum=0.9) for i in (0, 2)]
    masks = nnopt.prune(model, sparsity=0.7)
    for name, optimizer in zip(masks, optimizers, strict=True):
        nnopt.hold(model, nnopt.Masks({name: masks[name]}), optimizer)
    for _ in range(10):
        for optimizer in optimizers:
            train(model, x, optimizer, 1)
        assert_zeros(model, masks)


def test_nothing_of_a_hold_outlives_its_optimizer():
    import gc
    import weakref

    model, x, _ = make("mlp")
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    nnopt.hold(model, nnopt.prune(model, sparsity=0.5), optimizer)
    train(model, x, optimizer, 1)
    gone = weakref.ref(optimizer), weakref.ref(model)
    del optimizer, model
    gc.collect()
    assert [each() for each in gone] == [None, None]


# ---------------------------------------------------------------- an ordinary model, before, during and after

STAGES = ("before", "during", "after")
each_stage = pytest.mark.parametrize("stage", STAGES)


def staged(kind, stage):
    model, x, _ = make(kind)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    if stage != "before":
        masks = nnopt.prune(model, sparsity=0.6)
        handle = nnopt.hold(model, masks, optimizer)
        train(model, x, optimizer, 2)
        if stage == "after":
            handle.remove()
    return model.eval(), x, optimizer


@each_stage
@each_model
def test_the_model_stays_an_ordinary_one(kind, stage):
    plain, _, _ = make(kind)
    model, _, _ = staged(kind, stage)
    assert list(model.state_dict()) == list(plain.state_dict())
    for module, fresh in zip(model.modules(), plain.modules(), strict=True):
        assert type(module) is type(fresh) and list(vars(module)) == list(vars(fresh))
        hooks = [value for name, value in vars(module).items() if name.endswith("_hooks")]
        assert hooks and not any(hooks)
    assert all(type(parameter) is nn.Parameter and parameter.is_leaf for parameter in model.parameters())


@each_stage
@each_model
def test_copies_and_saved_weights_give_the_same_outputs(kind, stage):
    model, x, _ = staged(kind, stage)
    expected = model(x)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), expected)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh, _, _ = make(kind, seed=9)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(fresh.eval()(x), expected)
    whole = io.BytesIO()
    torch.save(model, whole)
    whole.seek(0)
    assert torch.equal(torch.load(whole, weights_only=False)(x), expected)


def test_a_copy_is_its_own_and_is_not_held():
    model, x, optimizer = staged("mlp", "during")
    twin = copy.deepcopy(model)
    before = [bits(p) for p in twin.parameters()]
    train(model, x, optimizer, 3)
    assert [bits(p) for p in twin.parameters()] == before
    masks = nnopt.make_masks({n: abs(nnopt.get_weights(twin)[n]) for n in nnopt.prunable(twin)}, sparsity=0.6)
    own = torch.optim.AdamW(twin.parameters(), 0.01)
    nnopt.hold(twin, masks, own)  # both at once
    train(twin, x, own, 3, check=lambda: assert_zeros(twin, masks))


@each_stage
@each_model
def test_compiling_gives_the_same_outputs(kind, stage):
    model, x, _ = staged(kind, stage)
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(x), model(x))


@each_stage
@each_model
def test_torch_export_gives_the_same_outputs(kind, stage):
    model, x, _ = staged(kind, stage)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))


@each_stage
@pytest.mark.parametrize("kind", ["mlp", "convolutional", "tied"])
def test_onnx_export_gives_the_same_outputs(kind, stage, tmp_path):
    from onnx import reference

    model, x, _ = staged(kind, stage)
    torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    run = reference.ReferenceEvaluator(str(tmp_path / "model.onnx"))
    (out,) = run.run(None, {run.input_names[0]: x.numpy()})
    np.testing.assert_allclose(out, model(x).detach().numpy(), atol=1e-5)


def test_hold_after_compiling_and_masks_of_a_compiled_model():
    model, x, _ = make("mlp")
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.AdamW(compiled.parameters(), 0.01)
    train(compiled, x, optimizer, 3)
    masks = nnopt.prune(compiled, sparsity=0.6)
    nnopt.hold(compiled, masks, optimizer)
    train(compiled, x, optimizer, 10, check=lambda: assert_zeros(model, masks, optimizer))


def test_a_compiled_model_has_the_names_of_the_model():
    """So that masks of one serve the other."""
    model, _, names = make("mlp")
    compiled = torch.compile(model, backend="eager")
    assert nnopt.prunable(compiled) == names
    nnopt.apply_masks(compiled, nnopt.prune(model, sparsity=0.6))


def test_the_kernel_of_attention_is_prunable():
    """Its query, key and value projections are one dense layer in torch, though no `Linear`."""
    assert nnopt.prunable(nn.MultiheadAttention(8, 2)) == ["in_proj_weight", "out_proj/kernel"]


# ---------------------------------------------------------------- rewinding and the controls


@pytest.mark.parametrize("precision", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["convolutional", "tied"])
def test_rewinding_is_exact_to_the_bit(kind, precision):
    model, x, _ = make(kind)
    model = model.to(precision)
    x = x.to(precision) if x.is_floating_point() else x
    with torch.no_grad():
        kernels(model)[0].view(-1)[0] = -0.0
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    train(model, x, optimizer, 2)
    floating = [t for t in model.state_dict().values() if t.is_floating_point()]
    parameters = list(model.parameters())
    before = [bits(tensor) for tensor in floating]
    first = nnopt.snapshot(model)
    train(model, x, optimizer, 3)
    assert [bits(tensor) for tensor in floating] != before  # the snapshot is a copy, not a view
    nnopt.rewind(model, first)
    assert [bits(tensor) for tensor in floating] == before
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    masks = nnopt.prune(model, sparsity=0.5)
    train(model, x, optimizer, 2)
    nnopt.rewind(model, first, masks)
    assert_zeros(model, masks)
    nnopt.rewind(model, first)
    assert [bits(tensor) for tensor in floating] == before  # masking did not reach into the snapshot


@pytest.mark.parametrize("kind", ["mlp", "convolutional"])
def test_reinitialize_draws_anew_from_the_layers_own_distribution(kind):
    model, _, _ = make(kind)
    before, state = nnopt.snapshot(model), torch.get_rng_state()
    nnopt.reinitialize(model, seed=1)
    after = nnopt.snapshot(model)
    assert torch.equal(torch.get_rng_state(), state)
    for name in nnopt.prunable(model):
        assert (before[name] != after[name]).mean() > 0.99
        fan_in = before[name][0].size if "4/" not in name else 6 * 2 * 2  # torch counts axis 1
        assert abs(after[name]).max() <= 1 / np.sqrt(fan_in) + 1e-6
    nnopt.reinitialize(model, seed=1)
    again = nnopt.snapshot(model)
    assert all(np.array_equal(again[name], after[name]) for name in after)
    nnopt.reinitialize(model, seed=2)
    assert not np.array_equal(nnopt.snapshot(model)["0/kernel"], after["0/kernel"])


def test_reinitialized_weights_have_the_spread_of_new_ones():
    layer = nn.Linear(200, 300)
    nnopt.reinitialize(layer, seed=3)
    weights = nnopt.get_weights(layer)["kernel"]
    assert weights.std() == pytest.approx(1 / np.sqrt(3 * 200), rel=0.02)  # uniform within 1 / sqrt(fan in)
    assert abs(weights.mean()) < 0.001


def test_reinitializing_a_described_network_equals_building_it():
    spec = nnopt.mlp((9,), inputs=12, outputs=4)
    model = nnopt.build(spec, seed=1)
    nnopt.reinitialize(model, seed=7)
    expected = nnopt.get_weights(nnopt.build(spec, seed=7))
    assert all(np.array_equal(value, expected[name]) for name, value in nnopt.get_weights(model).items())


# ---------------------------------------------------------------- fit, fit_many, levels

SPEC = nnopt.mlp((9, 5), inputs=12, outputs=4, activation="tanh")
RECIPES = {
    "momentum": {"momentum": 0.9, "weight_decay": 0.01},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "adam": {"optimizer": "adam", "learning_rate": 1e-2},
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1},
}


def assert_zero_weights(weights, masks):
    for name, mask in masks.items():
        gone = weights[name][~mask]
        assert (gone == 0).all() and not np.signbit(gone).any()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_fit_keeps_zeros(recipe):
    model = nnopt.build(SPEC)
    masks = nnopt.prune(model, sparsity=0.7)
    first = nnopt.snapshot(model)
    nnopt.fit(model, arrays(), nnopt.Training(epochs=3, **recipe), masks=masks, device="cpu")
    weights = nnopt.get_weights(model)
    assert_zero_weights(weights, masks)
    assert all((weights[name][mask] != first[name][mask]).any() for name, mask in masks.items())


def test_fit_masks_a_dense_model_and_best_weights_too():
    model, masks = nnopt.build(SPEC), nnopt.prune(nnopt.build(SPEC), sparsity=0.7)
    recipe = nnopt.Training(epochs=30, learning_rate=0.5, momentum=0.9, patience=2)
    nnopt.fit(model, arrays(noise=2.0), recipe, masks=masks, device="cpu")
    assert_zero_weights(nnopt.get_weights(model), masks)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_fit_many_equals_fit_for_every_seed(recipe):
    """Other weights, other masks, one dense, a seed twice."""
    seeds, data = [3, 3, 5, 8], arrays()
    training = nnopt.Training(steps=25, batch_size=16, **recipe)
    starts = [nnopt.get_weights(nnopt.build(SPEC, seed=10 + index)) for index in range(4)]
    kernels = [{n: abs(w) for n, w in start.items() if n.endswith("kernel")} for start in starts]
    masks = [nnopt.make_masks(kernels[0], sparsity=0.5), None, nnopt.make_masks(kernels[2], sparsity=0.9)]
    masks.append(nnopt.make_masks({"dense_2/kernel": kernels[3]["dense_2/kernel"]}, sparsity=0.5))
    copies = [{name: value.copy() for name, value in start.items()} for start in starts]
    stack = nnopt.fit_many(SPEC, data, training, seeds=seeds, weights=starts, masks=masks, device="cpu")
    for index, (seed, start, mask) in enumerate(zip(seeds, copies, masks, strict=True)):
        model = nnopt.build(SPEC)
        nnopt.set_weights(model, start)
        history = nnopt.fit(model, data, training, seed=seed, masks=mask, device="cpu")
        own = stack.weights(index)
        for name, value in nnopt.get_weights(model).items():
            np.testing.assert_allclose(own[name], value, atol=1e-5, err_msg=f"{index}: {name}")
        assert_zero_weights(own, mask or {})
        assert stack.histories[index]["train_loss"] == pytest.approx(history["train_loss"], abs=1e-4)
        assert all(np.array_equal(starts[index][name], value) for name, value in start.items())


def test_fit_many_with_masks_alone_starts_from_its_seeds():
    masks = [nnopt.prune(nnopt.build(SPEC, seed=seed), sparsity=0.6) for seed in (1, 2)]
    training = nnopt.Training(steps=7)
    stack = nnopt.fit_many(SPEC, arrays(), training, seeds=[1, 2], masks=masks, device="cpu")
    for index, seed in enumerate((1, 2)):
        model = nnopt.build(SPEC, seed=seed)
        nnopt.fit(model, arrays(), training, seed=seed, masks=masks[index], device="cpu")
        for name, value in nnopt.get_weights(model).items():
            np.testing.assert_allclose(stack.weights(index)[name], value, atol=1e-5)


def test_zeros_stay_zero_in_a_stack_that_diverges():
    """A gradient that is not finite, times 0, is not 0."""
    data, masks = arrays(), nnopt.prune(nnopt.build(SPEC), sparsity=0.6)
    data.x_train[:] *= 1e30
    relu = nnopt.mlp((9, 5), inputs=12, outputs=4)
    training = nnopt.Training(steps=5, learning_rate=1e10)
    stack = nnopt.fit_many(relu, data, training, seeds=[0], masks=[masks], device="cpu")
    assert_zero_weights(stack.weights(0), masks)


def test_levels_nest_and_rewind():
    model, data, seen = nnopt.build(SPEC, seed=4), arrays(), []
    first = nnopt.snapshot(model)

    def train_level(model, masks):
        own = nnopt.get_weights(model)
        assert all(np.array_equal(own[name], np.where(masks[name], first[name], 0)) for name in masks)
        assert all(np.array_equal(own[name], first[name]) for name in own if name not in masks)
        seen.append(masks)
        return nnopt.fit(model, data, nnopt.Training(epochs=2, momentum=0.9), masks=masks, device="cpu")

    targets = [0.0, *nnopt.schedules.exponential(0.8, 3)]
    levels = list(nnopt.iterative_prune(model, train_level, targets, rewind_to=first))
    assert [level.index for level in levels] == [0, 1, 2, 3]
    size = levels[0].masks.size
    assert [level.masks.removed for level in levels] == [round(target * size) for target in targets]
    assert [level.sparsity for level in levels] == [level.masks.sparsity for level in levels]
    for level, masks, before in zip(levels, seen, [None, *seen], strict=False):
        assert level.masks == masks and level.result.rows
        assert before is None or all(not (masks[name] & ~before[name]).any() for name in masks)
    assert_zero_weights(nnopt.get_weights(model), levels[-1].masks)


def test_levels_nest_even_where_training_lets_removed_weights_grow():
    model, masks = mlp(), []

    def careless(model, level_masks):
        masks.append(level_masks)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape))

    list(nnopt.iterative_prune(model, careless, [0.3, 0.3, 0.6]))
    assert masks[0] == masks[1] and [own.removed for own in masks] == [34, 34, 67]
    assert all(not (mask & ~masks[1][name]).any() for name, mask in masks[2].items())


def test_levels_without_rewinding_train_on():
    model, starts = nnopt.build(SPEC), []

    def train_level(model, masks):
        starts.append(nnopt.snapshot(model))
        nnopt.fit(model, arrays(), nnopt.Training(epochs=1), masks=masks, device="cpu")
        return nnopt.snapshot(model)

    levels = list(nnopt.iterative_prune(model, train_level, [0.2, 0.5], scope="layer"))
    for name, mask in levels[1].masks.items():
        assert np.array_equal(starts[1][name], np.where(mask, levels[0].result[name], 0))
        assert (~mask).sum() == round(0.5 * mask.size)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sparsity": 80}, "sparsity must be at least 0 and below 1; received 80. For 80 %, pass 0.8."),
        (
            {"sparsity": 0.5, "score": "magnitud"},
            "score must be one of magnitude, random; received 'magnitud'. Did you mean 'magnitude'?",
        ),
        (
            {"sparsity": 0.5, "names": ["0/kernl"]},
            "the model has no weight '0/kernl'. Did you mean '0/kernel'?",
        ),
        (
            {"sparsity": 0.5, "score": {"0/kernel": np.zeros((12, 7))}},
            "scores must have the names and shapes of the model's weights; received "
            "0/kernel (12, 7) for (7, 12), 2/kernel missing for (4, 7).",
        ),
        (
            {"sparsity": 0.5, "score": {"0/kernel": np.full((7, 12), np.nan), "2/kernel": np.ones((4, 7))}},
            "scores must not hold NaN; received NaN in '0/kernel'.",
        ),
        (
            {"granularity": "2:4"},
            "granularity '2:4' needs inputs in multiples of 4; received 2/kernel of shape (4, 7). "
            "Leave this layer out by names=.",
        ),
        ({"sparsity": 0.5, "seed": -1}, "seed must be a whole number, at least 0; received -1."),
    ],
)
def test_bad_calls_are_refused_in_one_sentence_and_change_nothing(options, sentence):
    model, _, _ = make("mlp")
    before = [bits(p) for p in model.parameters()]
    with pytest.raises(NnoptError) as error:
        nnopt.prune(model, **options)
    assert str(error.value) == sentence
    assert [bits(p) for p in model.parameters()] == before


def test_weights_with_nan_are_refused_by_name():
    model, _, _ = make("mlp")
    with torch.no_grad():
        model[2].weight[1, 1] = np.nan
    before = [bits(p) for p in model.parameters()]
    with pytest.raises(NnoptError) as error:
        nnopt.prune(model, sparsity=0.5)
    assert str(error.value) == "scores must not hold NaN; received NaN in '2/kernel'."
    assert [bits(p) for p in model.parameters()] == before


def test_a_model_with_nothing_to_prune_is_refused():
    frozen = mlp().requires_grad_(False)
    for model in (nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4)), frozen):
        with pytest.raises(NnoptError) as error:
            nnopt.prune(model, sparsity=0.5)
        assert str(error.value) == (
            "a model to prune needs a trainable kernel of a dense, convolution or embedding layer; received none."
        )


def test_an_empty_list_of_names_is_refused_as_such():
    with pytest.raises(NnoptError) as error:
        nnopt.prune(mlp(), sparsity=0.5, names=[])
    assert "names must" in str(error.value)


def test_something_else_is_no_model():
    with pytest.raises(NnoptError) as error:
        nnopt.prune({"a": np.ones(3)}, sparsity=0.5)
    assert str(error.value) == "a model must be a torch.nn.Module or a keras.Model; received builtins.dict."


FOREIGN = (
    "masks must have the names and shapes of the model's weights; received "
    "0/kernel (7, 12) for (12, 12), 2/kernel (4, 7) for none."
)


def test_masks_of_another_model_are_refused_with_names_and_shapes(tmp_path):
    masks = nnopt.prune(mlp(), sparsity=0.5)
    masks.save(tmp_path / "masks.safetensors")
    loaded = nnopt.Masks.load(tmp_path / "masks.safetensors")
    model = shared()
    before = [bits(p) for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    calls = [
        lambda: nnopt.apply_masks(model, loaded),
        lambda: nnopt.hold(model, loaded, optimizer),
        lambda: nnopt.rewind(model, nnopt.snapshot(model), loaded),
        lambda: nnopt.fit(model, arrays(), nnopt.Training(), masks=loaded, device="cpu"),
    ]
    for call in calls:
        with pytest.raises(NnoptError) as error:
            call()
        assert str(error.value) == FOREIGN
    assert [bits(p) for p in model.parameters()] == before


def test_an_optimizer_that_does_not_own_the_parameters_is_refused():
    model = mlp()
    masks = nnopt.prune(model, sparsity=0.5)
    for optimizer, names in (
        (torch.optim.SGD(copy.deepcopy(model).parameters(), 0.1), "0/kernel, 2/kernel"),
        (torch.optim.SGD(model[0].parameters(), 0.1), "2/kernel"),
    ):
        with pytest.raises(NnoptError) as error:
            nnopt.hold(model, masks, optimizer)
        assert str(error.value) == (
            f"the optimizer must own the masked parameters; received one without {names}. "
            "Make it from this model's parameters()."
        )
        assert not optimizer._optimizer_step_post_hooks
    with pytest.raises(NnoptError) as error:
        nnopt.hold(model, masks)
    assert str(error.value) == (
        "hold needs the torch optimizer that trains the model; received NoneType. Pass it as the third argument."
    )


def test_a_snapshot_of_another_model_is_refused():
    model = mlp()
    before = [bits(p) for p in model.parameters()]
    with pytest.raises(NnoptError) as error:
        nnopt.rewind(model, nnopt.snapshot(nn.Linear(12, 7)))
    assert str(error.value).startswith(
        "weights must have the names and shapes of the model's weights; received "
    )
    assert "0/kernel missing for (7, 12)" in str(error.value)
    assert [bits(p) for p in model.parameters()] == before


def test_parameters_that_no_layer_can_draw_are_refused():
    model = nn.Sequential(nn.Linear(3, 2), nn.PReLU())
    model.register_parameter("scale", nn.Parameter(torch.ones(1)))
    before = [bits(p) for p in model.parameters()]
    with pytest.raises(NnoptError) as error:
        nnopt.reinitialize(model, seed=0)
    assert str(error.value) == (
        "drawing weights again needs modules with reset_parameters; received none for scale. "
        "Build the model anew with another seed."
    )
    assert [bits(p) for p in model.parameters()] == before


@pytest.mark.parametrize("targets", [[0.2, 80], [0.5, 0.2]])
def test_impossible_targets_are_refused_before_any_training(targets):
    trained = []
    with pytest.raises(NnoptError):
        list(nnopt.iterative_prune(mlp(), lambda model, masks: trained.append(1), targets))
    assert not trained


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"masks": [None]}, "masks must be one per seed, 2; received 1."),
        ({"weights": []}, "weights must be one per seed, 2; received 0."),
    ],
)
def test_fit_many_refuses_what_is_not_one_per_seed(options, sentence):
    with pytest.raises(NnoptError) as error:
        nnopt.fit_many(SPEC, arrays(), nnopt.Training(steps=1), seeds=[1, 2], **options)
    assert str(error.value) == sentence


def test_fit_many_refuses_masks_of_another_network():
    masks = nnopt.prune(mlp(), sparsity=0.5)
    with pytest.raises(NnoptError) as error:
        nnopt.fit_many(SPEC, arrays(), nnopt.Training(steps=1), seeds=[1], masks=[masks])
    assert str(error.value) == (
        "masks must have the names and shapes of the model's weights; received "
        "0/kernel (7, 12) for none, 2/kernel (4, 7) for none."
    )
