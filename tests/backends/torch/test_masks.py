"""Pruning PyTorch models: masks against torch's own, zeros under every optimizer and loop, copies and exports."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

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
