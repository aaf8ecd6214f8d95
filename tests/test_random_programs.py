"""Any program of operations: its nodes are removed with the masked model's outputs, or it is refused untouched."""

from __future__ import annotations

import collections

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from tests.random_programs import drawn, outcome, outcome_of  # noqa: E402
from tests.random_steps import OPERATIONS  # noqa: E402

SEEDS, CHUNK = 300, 10


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_random_programs_are_pruned_exactly_or_refused_in_a_sentence(first):
    outcomes = [outcome(seed) for seed in range(first, first + CHUNK)]
    assert all(one.problem or one.kind for one in outcomes)
    faults = [one for one in outcomes if one.problem is not None]
    shown = "\n\n".join(str(one) for one in faults[:2])
    assert not faults, f"{len(faults)} of {CHUNK} programs, at seeds {[one.seed for one in faults]}\n{shown}"


def test_programs_use_many_operations_and_most_are_pruned():
    outcomes = [outcome(seed) for seed in range(SEEDS)]
    counted = collections.Counter(name for one in outcomes for name in set(one.operations))
    assert len(counted) >= 60
    assert set(counted) <= set(OPERATIONS)
    assert counted["unknown"] >= 20  # fft, cumprod, sort, a function of somebody else's
    kinds = collections.Counter(one.kind for one in outcomes)
    assert kinds["removed"] + kinds["to fold"] + kinds["inexact"] >= SEEDS / 2
    assert kinds["removed"] >= SEEDS / 3
    assert kinds["refused"] > 0


def test_a_seed_draws_the_same_program_again():
    first, second = drawn(5), drawn(5)
    assert first.source == second.source
    assert all(
        torch.equal(one, other)
        for one, other in zip(
            first.model.state_dict().values(), second.model.state_dict().values(), strict=True
        )
    )
    assert drawn(6).source != first.source


def test_a_wrong_removal_is_noticed(monkeypatch):
    import nnopt_lib
    from tests import random_programs

    real = nnopt_lib.remove_nodes

    def wrong(*args, **kwargs):
        small = real(*args, **kwargs)
        with torch.no_grad():
            for tensor in small.parameters():
                tensor.mul_(1.001)
        return small

    seed = next(
        seed for seed in range(SEEDS) if outcome(seed).problem is None and outcome(seed).kind == "removed"
    )
    monkeypatch.setattr(random_programs.nnopt_lib, "remove_nodes", wrong)
    assert "differ" in outcome_of(drawn(seed)).problem


def test_a_changed_model_is_noticed(monkeypatch):
    import nnopt_lib
    from tests import random_programs

    real = nnopt_lib.prune

    def wrong(model, **kwargs):
        masks = real(model, **kwargs)
        next(model.modules()).train(not model.training)
        return masks

    seed = next(
        seed for seed in range(SEEDS) if outcome(seed).problem is None and outcome(seed).kind == "removed"
    )
    monkeypatch.setattr(random_programs.nnopt_lib, "prune", wrong)
    assert "were changed" in outcome_of(drawn(seed)).problem
