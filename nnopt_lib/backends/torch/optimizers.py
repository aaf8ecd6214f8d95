"""Following any torch optimizer: those that it steps in its turn, every call by which it moves weights."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import MethodType
from typing import Any

import torch

Optimizer = torch.optim.Optimizer


def family(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizer and those that it steps in its turn, kept in attributes, lists or dictionaries."""
    members: list[Optimizer] = []
    seen: set[int] = set()
    waiting: list[Any] = [optimizer]
    while waiting:
        value = waiting.pop(0)
        if not isinstance(value, (Optimizer, list, tuple, set, Mapping)) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Optimizer):
            members.append(value)
            waiting += vars(value).values()
        else:
            waiting += value.values() if isinstance(value, Mapping) else value
    return members


def owned(members: list[Optimizer]) -> set[int]:
    """Identities of the parameters that these optimizers train."""
    groups = [group for member in members for group in getattr(member, "param_groups", ())]
    return {id(parameter) for group in groups for parameter in group["params"]}


def follow(
    optimizer: Optimizer, before: Callable[[], None], after: Callable[[], None]
) -> list[Callable[[], None]]:
    """Call `before` and `after` around all that may move weights; gives functions that end it."""
    names = list(_own_methods(optimizer))
    if not _runs_hooks(optimizer):
        return [_wrap(optimizer, name, before, after) for name in ("step", *names)]
    handles = [
        optimizer.register_step_pre_hook(lambda *_: before()),
        optimizer.register_step_post_hook(lambda *_: after()),
    ]
    return [*(handle.remove for handle in handles), *(_wrap(optimizer, n, before, after) for n in names)]


def _runs_hooks(optimizer: Optimizer) -> bool:
    """Whether torch's hooks run around its `step`: not where a wrapper never called `Optimizer.__init__`."""
    return getattr(type(optimizer).step, "hooked", False) and hasattr(optimizer, "_optimizer_step_post_hooks")


def _own_methods(optimizer: Optimizer) -> Iterator[str]:
    """Public methods that torch's optimizers do not have: SAM's first_step, a schedule-free one's eval.

    Which of them move weights cannot be told from outside, so that all are followed.
    """
    kinds = [kind for kind in type(optimizer).__mro__ if not kind.__module__.startswith("torch.")]
    names = {name: None for kind in kinds for name, value in vars(kind).items() if inspect.isfunction(value)}
    return (name for name in names if not name.startswith("_") and not hasattr(Optimizer, name))


def _wrap(
    optimizer: Optimizer, name: str, before: Callable[[], None], after: Callable[[], None]
) -> Callable[[], None]:
    """Stand around one method of this optimizer alone, as torch's learning-rate schedulers do."""
    replaced, earlier = vars(optimizer).get(name), getattr(optimizer, name)
    following = True

    @functools.wraps(getattr(earlier, "__func__", earlier))
    def around(_: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if not following:  # a scheduler that came later may still lead here
            return earlier(*args, **kwargs)
        before()
        result = earlier(*args, **kwargs)
        after()
        return result

    method = MethodType(around, optimizer)
    # Not setattr: some wrappers hand every attribute on to the optimizer that they wrap.
    vars(optimizer)[name] = method

    def end() -> None:
        nonlocal following
        following = False
        if vars(optimizer).get(name) is method:
            del vars(optimizer)[name]
            if replaced is not None:
                vars(optimizer)[name] = replaced

    return end


# Mean squares of gradients, of which exactly these optimizers take roots, one weight at a time.
_SQUARES: dict[type, str] = {
    torch.optim.Adam: "exp_avg_sq",
    torch.optim.AdamW: "exp_avg_sq",
    torch.optim.NAdam: "exp_avg_sq",
    torch.optim.RAdam: "exp_avg_sq",
    torch.optim.RMSprop: "square_avg",
}
_TINY = {  # 1e-30 as a whole number of the same bits: far from where numbers lose digits, and slow down
    torch.float32: int(torch.tensor(1e-30).view(torch.int32)),
    torch.float64: int(torch.tensor(1e-30, dtype=torch.float64).view(torch.int64)),
}
_WORTH = 50_000  # numbers; of fewer, roots of zeros take hardly longer than to go round them
_CHUNK = 1 << 16  # numbers that stay in a processor's own cache from one pass to the next


def squares(optimizer: Optimizer) -> str | None:
    """The name under which an optimizer keeps mean squares, where roots of zeros would slow it down."""
    return _SQUARES.get(type(optimizer)) if torch.backends.mkl.is_available() else None


@torch.no_grad()
def lift(square: object, bits: torch.Tensor) -> None:
    """Put a tiny number in the place of 0 where nothing is kept, until squares are masked after the step.

    MKL, which PyTorch uses on processors, takes five to ten times as long for roots of 0 as for others: a
    third of a large layer's whole step. Nothing that is kept changes by a bit, as these optimizers look at
    each weight apart; where nothing is kept the gradient is 0, and all is masked after the step.
    """
    if not isinstance(square, torch.Tensor) or square.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if square.dtype not in _TINY or square.shape != bits.shape or square.itemsize != bits.itemsize:
        return
    tiny = _TINY[square.dtype]
    rows = max(1, _CHUNK * len(square) // square.numel())
    for numbers, own in zip(square.view(bits.dtype).split(rows), bits.split(rows), strict=True):
        numbers.add_(own, alpha=tiny).add_(tiny)  # taken away where kept, then added everywhere: exact


def worth_lifting(parameter: torch.Tensor) -> bool:
    """Whether a layer is large enough."""
    return parameter.dim() > 0 and parameter.numel() >= _WORTH


def forget(optimizer: Optimizer, kept: Mapping[int, torch.Tensor]) -> None:
    """Start LBFGS anew if it remembers removed weights; `kept`: 0 where removed, by a parameter's identity.

    What it keeps are flat vectors of all parameters together. Its directions are made of them, so that one of
    before pruning would lead removed weights away from 0 inside a step.
    """
    if not isinstance(optimizer, torch.optim.LBFGS):
        return
    parameters = optimizer.param_groups[0]["params"]
    removed = torch.cat([(kept.get(id(p), torch.ones_like(p)) == 0).flatten() for p in parameters])
    memory = optimizer.state.get(parameters[0], {}).values()
    vectors = [one for value in memory for one in (value if isinstance(value, list) else [value])]
    flat = [one for one in vectors if isinstance(one, torch.Tensor) and one.shape == removed.shape]
    if any(vector[removed].any() for vector in flat):
        optimizer.state.clear()
