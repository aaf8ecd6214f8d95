"""Random programs: any module of operations is pruned exactly, or refused in a sentence and left as it was.

python tests/random_programs.py 17          # prints the program of seed 17 and what came of pruning it
python tests/random_programs.py 0 1000      # counts what came of many
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
import re
import sys
import textwrap
import traceback
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn

import nnopt_lib
from nnopt_lib.checks import NnoptError
from tests.random_steps import Program, drawn


@dataclasses.dataclass
class Outcome:
    """What came of pruning a program. problem: None if all is well."""

    seed: int
    operations: list[str]
    kind: str = ""  # "removed", "refused", "nothing", "to fold", "inexact"
    problem: str | None = None
    said: str = ""
    whole: dict[str, str] = dataclasses.field(default_factory=dict)
    layers: int = 0

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.problem}\n{textwrap.indent(drawn(self.seed).source, '    ')}"


class FoundError(Exception):
    pass


def flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, SimpleNamespace):
        value = vars(value)
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for one in value for tensor in flat(one)] if isinstance(value, (list, tuple)) else []


def snapshot(model: nn.Module) -> dict[str, Any]:
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    others = {}
    for path, module in model.named_modules():
        others[path] = (
            module.training,
            "forward" in module.__dict__,
            [
                len(getattr(module, hooks))
                for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
            ],
            sorted(module.__dict__),
            [(name, one.requires_grad, id(one)) for name, one in module.named_parameters(recurse=False)],
            [(name, id(one)) for name, one in module.named_buffers(recurse=False)],
        )
    return {"state": state, "others": others}


def same(before: dict[str, Any], after: dict[str, Any], masked: bool) -> None:
    if before["others"] != after["others"]:
        raise FoundError("modes, hooks, forward, attributes or tensors of the model were changed")
    if before["state"].keys() != after["state"].keys():
        raise FoundError("the names of its state were changed")
    for name, old in before["state"].items():
        new = after["state"][name]
        other = ~((old == new) | ((old != old) & (new != new)))
        if other.any() and (not masked or (new[other] != 0).any()):
            raise FoundError(f"{name} was changed, other than by zeros of masks")


def sentence(text: str) -> bool:
    return bool(text.strip()) and "\n" not in text and "Traceback" not in text


def outcome_of(program: Program) -> Outcome:
    outcome = Outcome(program.seed, program.operations)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _judge(program, outcome)
    except FoundError as fault:
        outcome.problem = str(fault)
    except Exception:
        outcome.problem = traceback.format_exc()
    return outcome


def _judge(program: Program, outcome: Outcome) -> None:
    model, example = program.model, program.example
    before = snapshot(model)
    try:
        masks = nnopt_lib.prune(model, sparsity=0.5, granularity="node", example_input=example)
    except NnoptError as error:
        outcome.kind, outcome.said = "refused", str(error)
        if not sentence(str(error)):
            raise FoundError(f"refused in other than a sentence: {error}") from None
        same(before, snapshot(model), masked=False)
        return
    masked = snapshot(model)
    same(before, masked, masked=True)
    if masks.removed == 0:  # of two nodes of one layer each, or of one
        outcome.kind = "nothing"
        if masks.size > 2 * len(masks):
            raise FoundError("nothing was removed")
        return
    outcome.whole = dict(masks.whole)
    for layer, reason in masks.whole.items():
        if not sentence(reason):
            raise FoundError(f"{layer!r} stays whole without a reason: {reason!r}")
    _named(model, masks, outcome)
    outcome.kind = "removed"
    try:
        small = nnopt_lib.remove_nodes(model, masks, example_input=example)
    except NnoptError as error:
        same(masked, snapshot(model), masked=False)
        if "fold=False" not in str(error):
            raise FoundError(f"removal refused: {error}") from None
        outcome.kind = "to fold"
        small = nnopt_lib.remove_nodes(model, masks, example_input=example, fold=True)
    same(masked, snapshot(model), masked=False)
    count = sum(one.numel() for one in small.parameters())
    if count >= sum(one.numel() for one in model.parameters()):
        raise FoundError("the smaller model has as many parameters")
    if outcome.kind == "to fold" and _padded(program):
        outcome.kind = "inexact"
    _compare(program, model, small, outcome)


def _named(model: nn.Module, masks: Any, outcome: Outcome) -> None:
    """Every layer with a kernel has masks, or a reason, under its own name or one that it shares its kernel with."""
    kinds = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd, nn.MultiheadAttention, nn.RNNBase, nn.Bilinear)
    known = {*masks, *masks.whole}
    modules = dict(model.named_modules())
    shared = {id(getattr(modules[path], "weight", None)) for path in known if path in modules} - {id(None)}
    for path, module in modules.items():
        if isinstance(module, kinds) and not path.endswith("out_proj"):
            outcome.layers += 1
            tied = id(getattr(module, "weight", None)) in shared
            if not (tied or known & {path, f"{path}.out_proj", f"{path}/weight"}):
                raise FoundError(f"{path!r} ({type(module).__name__}) is neither in masks nor in masks.whole")


def _padded(program: Program) -> bool:
    """Whether a convolution sees zeros at the border, where folding is not exact."""
    convs = [one for one in program.model.modules() if isinstance(one, nn.modules.conv._ConvNd)]
    zeros = [one for one in convs if one.padding_mode == "zeros" and not one.transposed]
    return "F.conv2d" in program.source or any(one.padding not in (0, (0,), (0, 0), "valid") for one in zeros)


def _compare(program: Program, model: nn.Module, small: nn.Module, outcome: Outcome) -> None:
    """Beside each other: on the example, on other examples, in training mode, where it also learns."""
    modes = [(one, one.training) for one in model.modules()]
    state = copy.deepcopy(model.state_dict())
    inputs = list(program.inputs.values())
    generator = torch.Generator().manual_seed(program.seed)
    more = [torch.cat([one, one.flip(0)])[:5] for one in inputs]
    more = [
        one + torch.randn(one.shape, generator=generator, dtype=one.dtype) if one.is_floating_point() else one
        for one in more
    ]
    exact = outcome.kind != "inexact"
    try:
        model.eval(), small.eval()
        for given in (inputs, more):
            with torch.no_grad():
                _same_outputs(_run(model, given), _run(small, given), exact, "")
        model.train(), small.train()
        try:
            expected = _run(model, more)
        except Exception:
            return  # it does not train as it is
        got = _run(small, more)
        draws = any(word in program.source for word in ("Dropout", "Transformer"))
        _same_outputs(expected, got, exact and not draws, " in training mode")
        try:
            _learn(expected)
        except Exception:
            return
        _learn(got)
    finally:
        for one, mode in modes:
            one.training = mode
        model.zero_grad()
        model.load_state_dict(state)


def _run(model: nn.Module, given: list[torch.Tensor]) -> list[torch.Tensor]:
    return flat(model(*[one.clone() for one in given]))


def _learn(outputs: list[torch.Tensor]) -> None:
    sum(one.sum() for one in outputs if one.requires_grad).backward()


def _same_outputs(expected: list[torch.Tensor], got: list[torch.Tensor], exact: bool, when: str) -> None:
    if [one.shape for one in expected] != [one.shape for one in got]:
        raise FoundError(f"the outputs have another shape{when}")
    for one, other in zip(expected, got, strict=True):
        size = float(one.nan_to_num().abs().max())
        if exact and not torch.allclose(other, one, rtol=0, atol=1e-5 * size + 1e-13, equal_nan=True):
            raise FoundError(f"outputs differ by {float((one - other).abs().max()):.3g} of {size:.3g}{when}")


@functools.cache
def outcome(seed: int) -> Outcome:
    """What comes of the program of this seed."""
    return outcome_of(drawn(seed))


if __name__ == "__main__":
    counted, reasons, operations = collections.Counter(), collections.Counter(), collections.Counter()
    seeds = [int(one) for one in sys.argv[1:]]
    if len(seeds) == 1:
        print(drawn(seeds[0]).source)
        found = outcome(seeds[0])
        print(found.kind, found.said, found.problem)
        for path, why in found.whole.items():
            print(f"  {path}: {why}")
    else:
        for seed in range(*seeds):
            found = outcome(seed)
            counted[found.kind if found.problem is None else "FAULT"] += 1
            operations.update(set(found.operations))
            reasons.update(re.sub(r"'[\w.]*\d'", "'..'", one) for one in found.whole.values())
            if found.problem is not None:
                print(f"--- seed {seed}: {found.problem.strip().splitlines()[-1][:300]}", flush=True)
            elif found.kind == "refused":
                print(f"    seed {seed} refused: {found.said[:300]}", flush=True)
        print(counted)
        print(len(operations), operations.most_common())
        for reason, count in reasons.most_common(40):
            print(count, reason)
