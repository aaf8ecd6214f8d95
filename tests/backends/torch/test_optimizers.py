"""Holding under optimizers of every make: those that step others, step under other names, or move weights later."""

import gc
import warnings
import weakref
from collections import OrderedDict, defaultdict

import pytest
import torch
from torch import nn

import nnopt_lib as nnopt
from nnopt_lib.backends.torch.optimizers import family, owned
from nnopt_lib.checks import NnoptError
from tests.pruning.torch_models import assert_zeros, kernels, make

pytestmark = pytest.mark.torch


# ---------------------------------------------------------------- optimizers as people write them


class SharpnessAware(torch.optim.Optimizer):
    """SAM: up by the gradient, then the step of another optimizer from where it was; `step` does both."""

    def __init__(self, params, rho=0.05):
        super().__init__(params, {"rho": rho})
        self.base_optimizer = torch.optim.SGD(self.param_groups, lr=0.1, momentum=0.9)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["before"] = p.data.clone()
                p.add_(p.grad, alpha=0.05)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["before"]
        self.base_optimizer.step()
        self.zero_grad()

    def step(self, closure):
        closure = torch.enable_grad()(closure)
        closure()
        self.first_step()
        closure()
        self.second_step()


class NoisyAscent(torch.optim.Optimizer):
    """Everything under names of its own, no torch optimizer inside, noise where the gradient is 0 too."""

    def __init__(self, params):
        super().__init__(params, {})

    @torch.no_grad()
    def perturb(self):
        for p in self.param_groups[0]["params"]:
            p.add_(0.01 * torch.randn_like(p))

    @torch.no_grad()
    def descend(self):
        for p in self.param_groups[0]["params"]:
            p.sub_(0.05 * p.grad + 0.001 * torch.randn_like(p))


class Composite(torch.optim.Optimizer):
    """Two optimizers as one, without `Optimizer.__init__`; children own all state."""

    def __init__(self, *children):
        self.children, self.defaults = list(children), {}
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = OrderedDict(), OrderedDict()

    @property
    def param_groups(self):
        return [group for child in self.children for group in child.param_groups]

    @property
    def state(self):
        return {}

    def step(self, closure=None):
        for child in self.children:
            child.step()


class Wrapper(torch.optim.Optimizer):
    """As Accelerate's: attributes lead to the optimizer inside; no `Optimizer.__init__`."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    state = property(lambda self: self.optimizer.state)
    param_groups = property(lambda self: self.optimizer.param_groups)
    defaults = property(lambda self: self.optimizer.defaults)

    def step(self, closure=None):
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)


class Delegating(Wrapper):
    """Hands on every attribute that it is given, too."""

    def __init__(self, optimizer):
        self.__dict__["optimizer"] = optimizer

    def __setattr__(self, name, value):
        setattr(self.optimizer, name, value)


class Lookahead(torch.optim.Optimizer):
    """Slow weights in its own state, copied over the fast ones every third step."""

    def __init__(self, optimizer):
        self.optimizer, self.param_groups = optimizer, optimizer.param_groups
        self.state, self.steps, self.defaults = defaultdict(dict), 0, {}
        for p in self._owned():
            self.state[p]["slow"] = p.detach().clone()  # dense, where it was made before pruning

    def _owned(self):
        return [p for group in self.param_groups for p in group["params"]]

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    def _slow(self, p):
        return self.state[p]["slow"]

    @torch.no_grad()
    def step(self, closure=None):
        self.optimizer.step()
        self.steps += 1
        if self.steps % 3 == 0:
            for p in self._owned():
                p.copy_(self._slow(p).lerp_(p, 0.5))


class LookaheadInList(Lookahead):
    """The same, the slow weights where nobody finds them."""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.kept = [(p, self.state.pop(p)["slow"]) for p in self._owned()]

    def _slow(self, p):
        return next(slow for one, slow in self.kept if one is p)


class FirstAndRest(torch.optim.Optimizer):
    """Some weights by its own rule, with noise, the rest by an optimizer inside; its groups are the first's."""

    def __init__(self, first, rest):
        super().__init__(first.parameters(), {"lr": 0.05})
        self.rest = torch.optim.Adam(rest.parameters(), 0.01)

    def zero_grad(self, set_to_none=True):
        super().zero_grad(set_to_none)
        self.rest.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure=None):
        self.rest.step()
        for p in self.param_groups[0]["params"]:
            p.sub_(0.05 * p.grad + 0.001 * torch.randn_like(p))


class ScheduleFree(torch.optim.Optimizer):
    """Steps one point, evaluates at another: `eval` and `train` move the weights between them."""

    def __init__(self, params):
        super().__init__(params, {})
        self.points = [p.detach().clone() for p in self.param_groups[0]["params"]]

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            p.sub_(0.05 * p.grad)

    @torch.no_grad()
    def eval(self):
        for p, point in zip(self.param_groups[0]["params"], self.points, strict=True):
            p.lerp_(point, 0.3)


# ---------------------------------------------------------------- loops that go with them


def backward(model, x):
    nn.functional.cross_entropy(model(x), torch.arange(len(x)) % 4).backward()


def by_step(model, x, optimizer):
    optimizer.zero_grad()
    backward(model, x)
    optimizer.step()


def by_two_steps(model, x, optimizer):
    backward(model, x)
    optimizer.first_step()
    backward(model, x)
    optimizer.second_step()


def by_closure(model, x, optimizer):
    def closure():
        optimizer.zero_grad()
        backward(model, x)

    optimizer.step(closure)


def by_other_names(model, x, optimizer):
    optimizer.zero_grad()
    optimizer.perturb()
    backward(model, x)
    optimizer.descend()


def by_step_and_eval(model, x, optimizer):
    by_step(model, x, optimizer)
    optimizer.eval()


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def halves(model):
    return torch.optim.Adam(model[0].parameters(), 0.01), torch.optim.SGD(model[2].parameters(), 0.1, 0.9)


def scaled(model, x, optimizer, scaler=torch.amp.GradScaler("cpu", init_scale=128.0)):  # noqa: B008
    optimizer.zero_grad()
    scaler.scale(nn.functional.cross_entropy(model(x), torch.arange(len(x)) % 4)).backward()
    scaler.step(optimizer)
    scaler.update()


MADE = {
    "sam by two steps": (lambda m: SharpnessAware(m.parameters()), by_two_steps),
    "sam by closure": (lambda m: SharpnessAware(m.parameters()), by_closure),
    "names of its own": (lambda m: NoisyAscent(m.parameters()), by_other_names),
    "composite": (lambda m: Composite(*halves(m)), by_step),
    "composite in a wrapper": (lambda m: Wrapper(Composite(*halves(m))), by_step),
    "some itself": (lambda m: FirstAndRest(m[0], m[2]), by_step),
    "wrapper": (lambda m: Wrapper(sgd(m)), by_step),
    "wrapper of a wrapper": (lambda m: Wrapper(Wrapper(sgd(m))), by_step),
    "wrapper under a scaler": (lambda m: Wrapper(sgd(m)), scaled),
    "delegating": (lambda m: Delegating(sgd(m)), by_step),
    "lookahead": (lambda m: Lookahead(sgd(m)), by_step),
    "lookahead in a list": (lambda m: LookaheadInList(sgd(m)), by_step),
    "lookahead of a composite": (lambda m: LookaheadInList(Composite(*halves(m))), by_step),
    "schedule-free": (lambda m: ScheduleFree(m.parameters()), by_step_and_eval),
}
each_made = pytest.mark.parametrize("name", MADE)


def started(name):
    """A model that has trained, its optimizer and loop."""
    model, x, _ = make("mlp")
    optimizer, loop = MADE[name][0](model), MADE[name][1]
    for _ in range(4):
        loop(model, x, optimizer)
    return model, x, optimizer, loop


# ---------------------------------------------------------------- zeros


@each_made
def test_zeros_stay_zero_at_the_end_of_every_step(name):
    model, x, optimizer, loop = started(name)
    masks = nnopt.prune(model, sparsity=0.7)
    nnopt.hold(model, masks, optimizer)
    before = [p.detach().clone() for p in kernels(model)]
    for _ in range(20):
        loop(model, x, optimizer)
        assert_zeros(model, masks)
    for mask, p, old in zip(masks.values(), kernels(model), before, strict=True):
        kept = torch.tensor(mask)
        assert (p.detach()[kept] != old[kept]).float().mean() > 0.5  # kept weights do learn


@each_made
def test_letting_go_leaves_the_optimizer_as_it_was(name):
    model, x, optimizer, loop = started(name)
    members = family(optimizer)
    before = [dict(vars(member)) for member in members]
    masks = nnopt.prune(model, sparsity=0.7)
    nnopt.hold(model, masks, optimizer).remove()
    assert [list(vars(member)) for member in members] == [list(one) for one in before]
    assert not any(member.__dict__.get("_optimizer_step_post_hooks") for member in members)
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    for _ in range(4):
        loop(model, x, optimizer)
    with pytest.raises(AssertionError):
        assert_zeros(model, masks)


@each_made
def test_nothing_of_a_hold_outlives_any_optimizer(name):
    model, x, optimizer, loop = started(name)
    nnopt.hold(model, nnopt.prune(model, sparsity=0.5), optimizer)
    loop(model, x, optimizer)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_removed_weights_are_zero_where_sam_looks_at_its_second_gradient():
    model, x, optimizer, _ = started("names of its own")
    masks = nnopt.prune(model, sparsity=0.7)
    nnopt.hold(model, masks, optimizer)
    optimizer.perturb()
    assert_zeros(model, masks)


def test_sam_and_a_masked_network_train_alike():
    import torch.nn.utils.prune as torch_prune

    model, x, _ = make("mlp")
    masks = nnopt.prune(model, sparsity=0.7)
    twin, _, _ = make("mlp")
    nnopt.apply_masks(twin, masks)
    for layer, name in ((twin[0], "0/kernel"), (twin[2], "2/kernel")):
        torch_prune.custom_from_mask(layer, "weight", torch.tensor(masks[name]).float())
    ours, theirs = SharpnessAware(model.parameters()), SharpnessAware(twin.parameters())
    nnopt.hold(model, masks, ours)
    for _ in range(50):
        by_two_steps(model, x, ours)
        by_two_steps(twin, x, theirs)
    torch.testing.assert_close(model(x), twin(x), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- roots of zeros, which are slow

ROOTS = {
    "adam": ("exp_avg_sq", lambda p: torch.optim.Adam(p, 0.01, amsgrad=True, weight_decay=0.01)),
    "adamw": ("exp_avg_sq", lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1)),
    "nadam": ("exp_avg_sq", lambda p: torch.optim.NAdam(p, 0.01)),
    "radam": ("exp_avg_sq", lambda p: torch.optim.RAdam(p, 0.01)),
    "rmsprop": ("square_avg", lambda p: torch.optim.RMSprop(p, 0.005, momentum=0.9, centered=True)),
    "small eps": ("exp_avg_sq", lambda p: torch.optim.Adam(p, 0.01, eps=1e-20)),
}


@pytest.mark.parametrize("chunk", [1, 1 << 16])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ROOTS)
def test_squares_of_removed_weights_are_above_0_inside_a_step_alone_and_change_no_bit(
    name, kind, chunk, monkeypatch
):
    from nnopt_lib.backends.torch import optimizers

    monkeypatch.setattr(optimizers, "_CHUNK", chunk)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    trained = []
    for worth in (1, 10**9):
        monkeypatch.setattr(optimizers, "_WORTH", worth)
        model, x, _ = make("mlp")
        model, x = model.to(kind), x.to(kind)
        optimizer = ROOTS[name][1](model.parameters())
        masks = nnopt.prune(model, sparsity=0.7)
        nnopt.hold(model, masks, optimizer)
        inside = []

        def look(optimizer, args, kwargs, masks=masks, model=model, inside=inside):
            for mask, p in zip(masks.values(), kernels(model), strict=True):
                if optimizer.state[p]:
                    squares = optimizer.state[p][ROOTS[name][0]]
                    inside.append((squares[torch.tensor(~mask)] > 0).all().item())

        optimizer.register_step_pre_hook(look)
        for _ in range(30):
            by_step(model, x, optimizer)
            assert_zeros(model, masks, optimizer)
        assert inside == [worth == 1] * len(inside) and len(inside) == 58
        trained.append([p.detach().clone() for p in model.parameters()])
        trained[-1] += [v.clone() for p in kernels(model) for v in optimizer.state[p].values()]
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))


# ---------------------------------------------------------------- beside schedulers and other holds


@pytest.mark.parametrize("scheduler_first", [True, False])
@pytest.mark.parametrize("wrap", [Wrapper, LookaheadInList, lambda optimizer: optimizer])
def test_a_learning_rate_scheduler_before_or_after(wrap, scheduler_first):
    model, x, _ = make("mlp")
    optimizer = wrap(sgd(model))
    masks = nnopt.prune(model, sparsity=0.7)
    schedule = lambda: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns where a `step` is not the one that it wrapped
        if scheduler_first:
            scheduler, handle = schedule(), nnopt.hold(model, masks, optimizer)
        else:
            handle, scheduler = nnopt.hold(model, masks, optimizer), schedule()
        for _ in range(5):
            by_step(model, x, optimizer)
            scheduler.step()
            assert_zeros(model, masks)
        handle.remove()
        assert hasattr(optimizer.step, "_wrapped_by_lr_sched")  # by which the scheduler counts steps
        for _ in range(5):
            by_step(model, x, optimizer)
            scheduler.step()
    with pytest.raises(AssertionError):
        assert_zeros(model, masks)


def test_a_hold_on_the_wrapper_takes_the_place_of_one_on_what_it_wraps():
    for inner_first in (True, False):
        model, x, _ = make("mlp")
        inner = sgd(model)
        pair = (inner, Wrapper(inner)) if inner_first else (Wrapper(inner), inner)
        first = nnopt.prune(model, sparsity=0.5)
        second = nnopt.shuffle_masks(first, seed=0)
        nnopt.hold(model, first, pair[0])
        nnopt.hold(model, second, pair[1])
        for _ in range(5):
            by_step(model, x, pair[1])
            assert_zeros(model, second)
        with pytest.raises(AssertionError):
            assert_zeros(model, first)  # what only the first removed has grown again


def test_an_optimizer_in_the_backward_pass():
    """One for each parameter, stepped by a hook on it, so that no gradient is kept."""
    model, x, _ = make("mlp")
    masks = nnopt.prune(model, sparsity=0.7)
    each = {p: torch.optim.Adam([p], 0.01) for p in model.parameters()}

    def step(p):
        each[p].step()
        each[p].zero_grad()

    for p in each:
        p.register_post_accumulate_grad_hook(step)
    for name, p in zip(masks, kernels(model), strict=True):
        nnopt.hold(model, nnopt.Masks({name: masks[name]}), each[p])
    for _ in range(10):
        backward(model, x)
        assert_zeros(model, masks)
        assert all(p.grad is None for p in model.parameters())


# ---------------------------------------------------------------- what belongs together, and refusals


def test_a_family_is_all_that_is_reached_once():
    model, _, _ = make("mlp")
    first, second = halves(model)
    composite = Composite(first, second)
    composite.by_name = {"first": first, "again": [composite, (second,)]}
    assert [id(one) for one in family(composite)] == [id(composite), id(first), id(second)]
    assert owned(family(composite)) == {id(p) for p in model.parameters()}
    assert family(first) == [first]


def test_wrappers_that_do_not_own_the_weights_are_refused_and_nothing_changes():
    model, _, _ = make("mlp")
    masks = nnopt.prune(model, sparsity=0.5)
    inner = torch.optim.SGD(model[2].parameters(), 0.1)
    for optimizer in (Wrapper(inner), Composite(inner), Lookahead(inner)):
        before = dict(vars(optimizer))
        with pytest.raises(NnoptError) as error:
            nnopt.hold(model, masks, optimizer)
        assert str(error.value) == (
            "the optimizer must own the masked parameters; received one without 0/kernel. "
            "Make it from this model's parameters()."
        )
        assert dict(vars(optimizer)) == before and not inner._optimizer_step_post_hooks
        assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_a_wrapper_that_is_no_torch_optimizer_is_refused():
    class Plain:
        def __init__(self, optimizer):
            self.optimizer = optimizer

    model, _, _ = make("mlp")
    with pytest.raises(NnoptError) as error:
        nnopt.hold(model, nnopt.prune(model, sparsity=0.5), Plain(sgd(model)))
    assert str(error.value) == (
        "hold needs the torch optimizer that trains the model; received Plain. Pass it as the third argument."
    )
