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
from tests.pruning.torch_models import (
    LOOPS,
    OPTIMIZERS,
    assert_zeros,
    bits,
    each_model,
    kernels,
    make,
    mlp,
    shared,
    train,
)

pytestmark = pytest.mark.torch


# ---------------------------------------------------------------- models that nobody described


# ---------------------------------------------------------------- which masks


# ---------------------------------------------------------------- holding

each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


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


KINDS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


class OtherPrecision(torch.optim.Optimizer):
    """Momentum kept in another precision than the weights, as optimizers for large models keep it."""

    def __init__(self, params, kind):
        super().__init__(params, {"kind": kind})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                memory = self.state[p].setdefault("memory", torch.zeros(p.shape, dtype=group["kind"]))
                memory.mul_(0.9).add_(p.grad.to(group["kind"]))
                p.sub_((0.05 * memory).to(p.dtype))


@pytest.mark.parametrize("of_state", KINDS)
@pytest.mark.parametrize("of_weights", KINDS)
def test_state_of_any_precision_is_masked_where_the_weights_are_and_nowhere_else(of_weights, of_state):
    model, x, _ = make("mlp")
    model, x = model.to(of_weights), x.to(of_weights)
    optimizer = OtherPrecision(model.parameters(), of_state)
    train(model, x, optimizer, 3)
    memory = {p: optimizer.state[p]["memory"] for p in kernels(model)}
    before = [value.clone() for value in memory.values()]
    masks = nnopt.prune(model, sparsity=0.7)
    nnopt.hold(model, masks, optimizer)
    assert_zeros(model, masks, optimizer)
    for mask, value, old in zip(masks.values(), memory.values(), before, strict=True):
        assert value.dtype == of_state and torch.equal(value, old * torch.tensor(mask))  # kept to the bit
        assert (old[~torch.tensor(mask)] != 0).any()  # there was something to take away
    train(model, x, optimizer, 5, check=lambda: assert_zeros(model, masks, optimizer))
    assert all((value != 0).any() and torch.isfinite(value).all() for value in memory.values())


@pytest.mark.parametrize("later", KINDS)
def test_zeros_stay_zero_in_a_model_whose_precision_changes_while_it_is_held(later):
    model, x, _ = make("mlp")
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    masks = nnopt.prune(model, sparsity=0.7)
    nnopt.hold(model, masks, optimizer)
    train(model, x, optimizer, 2)
    model, x = model.to(later), x.to(later)  # the same parameters, their numbers of another size
    optimizer.state.clear()
    before = [parameter.detach().clone() for parameter in kernels(model)]
    train(model, x, optimizer, 5, check=lambda: assert_zeros(model, masks, optimizer))
    for mask, parameter, old in zip(masks.values(), kernels(model), before, strict=True):
        kept = torch.tensor(mask)
        assert (parameter.detach()[kept] != old[kept]).float().mean() > 0.5  # kept weights do learn


def test_state_of_another_shape_is_left_alone():
    model, x, _ = make("mlp")
    optimizer = OtherPrecision(model.parameters(), torch.float32)
    first = kernels(model)[0]
    optimizer.state[first]["row"] = torch.ones(first.shape[0])  # as Adafactor keeps, a number for each row
    train(model, x, optimizer, 1)
    nnopt.hold(model, nnopt.prune(model, sparsity=0.9), optimizer)
    train(model, x, optimizer, 1)
    assert optimizer.state[first]["row"].tolist() == [1.0] * first.shape[0]


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


# ---------------------------------------------------------------- gradients, against torch's masked layers

STEPS = 200
LABELS = torch.arange(16) % 4


def matrices(parameters):
    return [p for p in parameters if p.dim() == 2]


COMPARED = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.005, momentum=0.9, centered=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, 0.05, weight_decay=0.01),
    "muon": lambda p: torch.optim.Muon(matrices(p), 0.02),
    "radam": lambda p: torch.optim.RAdam(p, 0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.5, line_search_fn="strong_wolfe"),
    "lbfgs without a search": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=3, history_size=5),
}


def plain(model, x, optimizer, number):
    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), LABELS)
        loss.backward()
        return loss

    optimizer.step(closure)


def clipped_by_norm(model, x, optimizer, number):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), LABELS).backward()
    nn.utils.clip_grad_norm_(trained(optimizer), 0.05)
    optimizer.step()


def clipped_by_value(model, x, optimizer, number):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), LABELS).backward()
    nn.utils.clip_grad_value_(trained(optimizer), 0.01)
    optimizer.step()


def accumulated(model, x, optimizer, number):
    for part in range(4):
        nn.functional.cross_entropy(model(x[part::4]), LABELS[part::4]).backward()
    nn.utils.clip_grad_norm_(trained(optimizer), 0.1)
    optimizer.step()
    optimizer.zero_grad(set_to_none=number % 2 == 0)


def mixed(model, x, optimizer, number, kind=torch.bfloat16):
    scaler = optimizer.__dict__.setdefault("scaler", torch.amp.GradScaler("cpu", init_scale=256.0))
    optimizer.zero_grad()
    with torch.autocast("cpu", kind):
        loss = nn.functional.cross_entropy(model(x), LABELS)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(trained(optimizer), 0.1)
    scaler.step(optimizer)
    scaler.update()


def mixed_in_half_precision(model, x, optimizer, number):
    mixed(model, x, optimizer, number, torch.float16)


def by_hand(model, x, optimizer, number):
    """Gradients that no backward pass wrote."""
    loss = nn.functional.cross_entropy(model(x), LABELS)
    parameters = trained(optimizer)
    for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        p.grad = gradient
    optimizer.step()


COMPARED_LOOPS = {
    loop.__name__: loop
    for loop in (
        plain,
        clipped_by_norm,
        clipped_by_value,
        accumulated,
        mixed,
        mixed_in_half_precision,
        by_hand,
    )
}


def trained(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def ordered(model):
    """Parameters in the order of the layers, as sums over all of them go, whatever torch calls them."""
    layers = [
        layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
    ]
    weights = [dict(layer.named_parameters()) for layer in layers]
    return [one for own in weights for one in (own.get("weight_orig", own.get("weight")), own["bias"])]


def pair(kind="mlp", sparsity=0.7):
    """A pruned model, and its twin of torch's masked layers from the same weights."""
    model, x, _ = make(kind)
    masks = nnopt.prune(model, sparsity=sparsity, scope="layer")
    twin, _, _ = make(kind)
    nnopt.apply_masks(twin, masks)  # Adafactor scales its steps by the weights, removed ones of before too
    for name, mask in masks.items():
        layer = twin.get_submodule(name.removesuffix("/kernel"))
        torch_prune.custom_from_mask(layer, "weight", torch.tensor(mask).float())
    return model, twin, masks, x


def largest_difference(model, twin):
    return max(
        (a.weight.detach() - b.weight.detach()).abs().max().item()
        for a, b in zip(model.modules(), twin.modules(), strict=True)
        if hasattr(a, "weight") and isinstance(a, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
    )


GOING = [(o, loop) for o in COMPARED for loop in COMPARED_LOOPS if "lbfgs" not in o or loop == "plain"]


@pytest.mark.parametrize(("optimizer", "loop"), GOING)
def test_held_training_is_that_of_masked_layers(optimizer, loop):
    model, twin, masks, x = pair()
    ours, theirs = (COMPARED[optimizer](ordered(one)) for one in (model, twin))
    nnopt.hold(model, masks, ours)
    start = [p.detach().clone() for p in kernels(model)]
    steps = STEPS if "lbfgs" not in optimizer else 20  # twenty evaluations in each of its steps
    for number in range(steps):
        COMPARED_LOOPS[loop](model, x, ours, number)
        COMPARED_LOOPS[loop](twin, x, theirs, number)
        assert_zeros(model, masks)
    twin(x)  # their weights are of the last forward pass
    assert largest_difference(model, twin) < 1e-5
    moved = max((p - old).abs().max().item() for p, old in zip(kernels(model), start, strict=True))
    assert moved > 0.01 and all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon", "adafactor"])
def test_compiled_steps_train_as_masked_layers_do(optimizer):
    model, twin, masks, x = pair()
    ours, theirs = (COMPARED[optimizer](ordered(one)) for one in (model, twin))
    nnopt.hold(model, masks, ours)
    step = torch.compile(lambda: clipped_by_norm(model, x, ours, 0), backend="eager")
    for _ in range(20):
        step()
        clipped_by_norm(twin, x, theirs, 0)
        assert_zeros(model, masks)
    twin(x)
    assert largest_difference(model, twin) < 1e-5


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adafactor"])
def test_convolutions_train_as_masked_ones_do_when_clipped(optimizer):
    model, twin, masks, x = pair("convolutional")
    ours, theirs = (COMPARED[optimizer](ordered(one)) for one in (model, twin))
    nnopt.hold(model, masks, ours)
    for _ in range(20):
        clipped_by_norm(model, x, ours, 0)
        clipped_by_norm(twin, x, theirs, 0)
    twin(x)
    assert largest_difference(model, twin) < 1e-5


def test_gradients_are_masked_as_they_arrive_and_whole_again_afterwards():
    model, _, masks, x = pair()
    whole, _, _, _ = pair()
    for one in (model, whole):
        for p in one.parameters():
            p.grad = torch.ones_like(p)  # left from before: what is added to it is masked with it
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    handle = nnopt.hold(model, masks, optimizer)
    for one in (model, whole):
        nn.functional.cross_entropy(one(x), LABELS).backward()
    for mask, ours, theirs in zip(masks.values(), kernels(model), kernels(whole), strict=True):
        assert torch.equal(ours.grad, theirs.grad * torch.tensor(mask))
    assert all(torch.equal(model[i].bias.grad, whole[i].bias.grad) for i in (0, 2))
    handle.remove()
    model.zero_grad()
    nn.functional.cross_entropy(model(x), LABELS).backward()
    assert all((p.grad[p == 0] != 0).any() for p in kernels(model))


def test_dense_gradients_are_there_for_who_asks_autograd():
    """As methods that let weights grow again need them."""
    model, _, masks, x = pair()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    nnopt.hold(model, masks, optimizer)
    loss = nn.functional.cross_entropy(model(x), LABELS)
    gradients = torch.autograd.grad(loss, kernels(model))
    for mask, gradient in zip(masks.values(), gradients, strict=True):
        assert (gradient[~torch.tensor(mask)] != 0).any()


def test_infinite_gradients_of_removed_weights_do_not_reach_the_others():
    """A root's slope at 0, say: clipping would spread it over all weights."""
    model, _, masks, x = pair()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    nnopt.hold(model, masks, optimizer)
    roots = sum(p.abs().sqrt().sum() for p in kernels(model))
    (nn.functional.cross_entropy(model(x), LABELS) + 1e-3 * roots).backward()
    assert nn.utils.clip_grad_norm_(model.parameters(), 1.0).isfinite()
    optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_gradients_of_other_types(kind):
    model, _, masks, x = pair()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    nnopt.hold(model, masks, optimizer)
    model.to(kind)  # while it is held
    nn.functional.cross_entropy(model(x.to(kind)), LABELS).backward()
    for mask, p in zip(masks.values(), kernels(model), strict=True):
        removed = torch.tensor(~mask)
        assert p.grad.dtype == kind and (p.grad[removed] == 0).all() and (p.grad[~removed] != 0).any()


def test_sparse_gradients_of_embeddings():
    """Rows in any order, some of them twice, until somebody adds them up."""
    torch.manual_seed(0)
    layers = [nn.Embedding(20, 6, sparse=sparse) for sparse in (True, False)]
    layers[1].load_state_dict(layers[0].state_dict())
    words = torch.tensor([3, 7, 3, 3, 19])
    masks = nnopt.prune(layers[0], sparsity=0.6)
    optimizer = torch.optim.SparseAdam(layers[0].parameters(), 0.01)
    nnopt.hold(layers[0], masks, optimizer)
    for layer in layers:
        layer(words).sin().sum().backward()
    nnopt.apply_masks(layers[1], masks)
    layers[1].zero_grad()
    layers[1](words).sin().sum().backward()
    assert layers[0].weight.grad.is_sparse
    layers[0].zero_grad()
    layers[0](words).sin().sum().backward()
    expected = layers[1].weight.grad * torch.tensor(masks["kernel"])
    assert torch.equal(layers[0].weight.grad.to_dense(), expected) and expected.any()
    optimizer.step()
    assert (layers[0].weight.detach()[~torch.tensor(masks["kernel"])] == 0).all()


def test_a_later_hold_has_the_gradients_while_the_earlier_optimizer_lives():
    model, _, first, x = pair()
    second = nnopt.shuffle_masks(first, seed=0)
    earlier, later = (torch.optim.SGD(model.parameters(), 0.1) for _ in range(2))
    nnopt.hold(model, first, earlier)
    handle = nnopt.hold(model, second, later)
    nn.functional.cross_entropy(model(x), LABELS).backward()
    for name, p in zip(second, kernels(model), strict=True):
        assert not p.grad[torch.tensor(~second[name])].any()
        assert p.grad[torch.tensor(second[name] & ~first[name])].any()
    handle.remove()
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_gradients_are_whole_again_once_the_optimizer_is_gone():
    model, _, masks, x = pair()
    nnopt.hold(model, masks, torch.optim.SGD(model.parameters(), 0.1))
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    nn.functional.cross_entropy(model(x), LABELS).backward()
    assert all(p.grad[p == 0].any() for p in kernels(model))


def test_lbfgs_that_remembers_removed_weights_starts_anew_and_one_that_does_not_goes_on():
    dense, x, _ = make("mlp")
    optimizer = COMPARED["lbfgs"](list(dense.parameters()))
    for number in range(3):
        plain(dense, x, optimizer, number)
    masks = nnopt.prune(dense, sparsity=0.7)
    nnopt.hold(dense, masks, optimizer)
    assert not optimizer.state
    first = nn.functional.cross_entropy(dense(x), LABELS).item()
    for number in range(3):
        plain(dense, x, optimizer, number)
        assert_zeros(dense, masks)
    assert nn.functional.cross_entropy(dense(x), LABELS).item() < first
    before = optimizer.state[trained(optimizer)[0]]["n_iter"]
    nnopt.hold(dense, masks, optimizer)  # the same masks: nothing to forget
    assert optimizer.state[trained(optimizer)[0]]["n_iter"] == before > 0


def test_frozen_weights_can_be_held_and_are_masked_when_they_thaw():
    model, _, masks, x = pair()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    nnopt.hold(model, masks, optimizer)
    for thaw in (False, True):
        model[0].weight.requires_grad_(thaw)
        for number in range(3):
            plain(model, x, optimizer, number)
            assert_zeros(model, masks)


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
    optimizer_of_twin = torch.optim.AdamW(twin.parameters(), 0.01)
    nnopt.hold(twin, masks, optimizer_of_twin)  # both at once
    train(twin, x, optimizer_of_twin, 3, check=lambda: assert_zeros(twin, masks))


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


WRAPPINGS = {
    "parallel": nn.DataParallel,
    "average": torch.optim.swa_utils.AveragedModel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "compiled parallel": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
    "average of a compiled one": lambda m: torch.optim.swa_utils.AveragedModel(
        torch.compile(m, backend="eager")
    ),
}


@pytest.mark.parametrize("kind", ["mlp", "tied"])
@pytest.mark.parametrize("name", WRAPPINGS)
def test_masks_fit_the_model_wrapped_and_unwrapped(name, kind, tmp_path):
    model, x, names = make(kind)
    wrapped = WRAPPINGS[name](model)
    assert nnopt.prunable(wrapped) == names and list(nnopt.get_weights(wrapped)) == list(
        nnopt.get_weights(model)
    )
    masks = nnopt.prune(wrapped, sparsity=0.6)
    masks.save(tmp_path / "masks.safetensors")
    masks = nnopt.Masks.load(tmp_path / "masks.safetensors")
    nnopt.apply_masks(model, masks)
    for one in (model, wrapped):
        optimizer = torch.optim.AdamW(one.parameters(), 0.01)
        handle = nnopt.hold(one, masks, optimizer)
        train(one, x, optimizer, 3, check=lambda one=one: assert_zeros(one, masks))
        handle.remove()


def test_a_layer_named_module_is_no_wrapper():
    model = nn.ModuleDict({"module": nn.Linear(4, 3)})
    assert nnopt.prunable(model) == ["module/kernel"]


# ---------------------------------------------------------------- rewinding and the controls


# ---------------------------------------------------------------- fit, fit_many, levels


# ---------------------------------------------------------------- refusals


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
        lambda: nnopt.rewind(model, nnopt.get_weights(model), loaded),
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


# ---------------------------------------------------------------- layers that compute their weights


class LowRank(nn.Module):
    """A frozen matrix and a small correction that learns, as LoRA has it."""

    def __init__(self, layer):
        super().__init__()
        layer.weight.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(2, layer.weight.shape[1]))
        self.b = nn.Parameter(torch.randn(layer.weight.shape[0], 2))

    def forward(self, weight):
        return weight + self.b @ self.a


class Factored(nn.Linear):
    """A layer that has no weight, only two factors of it: asking for it is an AttributeError."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        del self.weight
        self.left, self.right = nn.Parameter(torch.randn(outputs, 2)), nn.Parameter(torch.randn(2, inputs))

    def forward(self, x):
        return nn.functional.linear(x, self.left @ self.right, self.bias)


def low_rank():
    layer = nn.Linear(8, 8)
    nn.utils.parametrize.register_parametrization(layer, "weight", LowRank(layer))
    return layer


def attention_with_a_norm():
    layer = nn.MultiheadAttention(8, 2)
    return nn.utils.parametrizations.weight_norm(layer, "in_proj_weight")


COMPUTED = {
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
    "weight_norm of before": lambda: nn.utils.weight_norm(nn.Linear(8, 8)),
    "spectral_norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
    "spectral_norm of before": lambda: nn.utils.spectral_norm(nn.Conv2d(8, 8, 3)),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(nn.Linear(8, 8)),
    "transposed": lambda: nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(8, 8, 3)),
    "embedding": lambda: nn.utils.parametrizations.weight_norm(nn.Embedding(8, 8)),
    "masked by torch": lambda: torch_prune.l1_unstructured(nn.Linear(8, 8), "weight", 0.5),
    "low rank": low_rank,
    "factors": lambda: Factored(8, 8),
    "attention": attention_with_a_norm,
}


def state(model):
    """All that a refusal must leave as it was: numbers, modes, hooks."""
    tensors = {name: bits(tensor) for name, tensor in model.state_dict().items()}
    others = [
        (m.training, *(len(vars(m)[h]) for h in vars(m) if h.endswith("_hooks"))) for m in model.modules()
    ]
    return tensors, others


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's, of the older weight_norm
@pytest.mark.parametrize("name", COMPUTED)
def test_layers_that_compute_their_weights_are_refused_by_name_and_stay(name):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), COMPUTED[name]())
    before = state(model)
    what = "in_proj_weight" if name == "attention" else "weight"
    for call in (
        nnopt.prunable,
        lambda m: nnopt.prune(m, sparsity=0.5),
        lambda m: nnopt.penalties.l1(m),
    ):
        with pytest.raises(NnoptError) as error:
            call(model)
        assert str(error.value) == (
            f"layer '2' must own its weights to be pruned; received a {what} that is computed from other "
            "parameters. Make it a parameter again (remove_parametrizations, remove_weight_norm or "
            "prune.remove of torch.nn.utils), or name the weights to prune."
        )
        assert state(model) == before
    masks = nnopt.prune(model, sparsity=0.5, names=["0/kernel"])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    nnopt.hold(model, masks, optimizer)
    model[0](torch.randn(4, 8)).square().sum().backward()
    optimizer.step()
    assert (model[0].weight.detach()[~torch.tensor(masks["0/kernel"])] == 0).all() and masks.removed == 32


def test_a_layer_that_is_no_parametrized_one_any_more_is_pruned():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)))
    nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    assert nnopt.prune(model, sparsity=0.5).size == 64


def test_frozen_layers_that_compute_their_weights_are_left_out_as_other_frozen_ones_are():
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)), nn.Linear(8, 2))
    for name, parameter in model[0].named_parameters():
        parameter.requires_grad_(name == "bias")
    before = state(model)
    assert nnopt.prunable(model) == ["1/kernel"]
    assert state(model) == before


def test_a_parametrized_bias_or_normalization_is_no_matter():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    for layer, name in ((model[0], "bias"), (model[1], "weight")):
        nn.utils.parametrize.register_parametrization(layer, name, nn.Softplus(), unsafe=True)
    assert nnopt.prunable(model) == ["0/kernel"]
