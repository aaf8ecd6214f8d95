import dataclasses

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib import measure
from nnopt_lib.checks import NnoptError
from nnopt_lib.nas.result import Candidate, SearchResult
from tests.nas.spaces import OPTIONS, RECIPE, WIDTHS, widths

pytestmark = pytest.mark.torch


def test_best_is_chosen_on_validation_data_and_equals_a_loop_by_hand():
    result = nnopt.search(widths(), budget=nnopt.Budget(parameters=2410), **OPTIONS)
    digits = nnopt.load_data("digits")
    recipe = dataclasses.replace(RECIPE, steps=-(-len(digits.x_train) // 100))
    scores, tests = {}, {}
    for units in WIDTHS:
        spec = nnopt.mlp(units, inputs=64, outputs=10)
        if measure.count(spec).parameters > 2410:
            continue
        stack = nnopt.fit_many(spec, digits, recipe, seeds=range(3), device="cpu")
        rows = stack.evaluate(digits.x_validation, digits.y_validation)
        scores[units] = np.mean([row["accuracy"] for row in rows])
        tests[units] = [row["accuracy"] for row in stack.evaluate(digits.x_test, digits.y_test)]
    assert {candidate.choice["units"]: candidate.score for candidate in result.candidates} == pytest.approx(
        scores
    )
    best = max(scores, key=scores.get)
    assert result.best.choice == {"units": best} and result.test() == pytest.approx(tests[best])
    assert len(result.rows) == 3 * len(scores)
    assert {row["seed"] for row in result.rows} == {0, 1, 2}
    assert not any("test" in name for row in result.rows for name in row)
    # Test rows join the evidence only once they were read; both kinds know their experiment.
    assert [row.experiment for row in result.evidence] == ["search"] * len(result.rows) + ["search-test"] * 3


def found(*candidates):
    """A result of candidates (name, parameters, steps, accuracies by seed) that nobody trained."""
    digits = nnopt.load_data("digits")
    result = SearchResult("search", digits, digits, RECIPE, 3, nnopt.Budget(), {})
    spec = nnopt.mlp((4,), inputs=64, outputs=10)
    for name, parameters, steps, accuracies in candidates:
        result.trained.append(Candidate({"name": name}, spec, parameters, 10 * parameters, steps, accuracies))
    return result


@pytest.mark.parametrize("turn", range(4))
def test_of_equally_accurate_candidates_the_smallest_is_the_best_wherever_it_stands(turn):
    candidates = [
        ("large", 900, 5, [0.75, 0.75, 0.75]),
        ("small", 300, 5, [0.75, 0.5, 1.0]),  # the same mean, exactly: sums of halves and quarters
        ("middle", 500, 5, [1.0, 0.5, 0.75]),
        ("smallest, less accurate", 100, 5, [0.75, 0.5, 0.5]),
    ]
    assert found(*candidates[turn:], *candidates[:turn]).best.choice == {"name": "small"}


def test_of_equally_accurate_candidates_of_one_size_the_first_asked_for_is_the_best():
    twins = [("first", 300, 5, [0.75] * 3), ("second", 300, 5, [0.75] * 3), ("third", 400, 5, [0.75] * 3)]
    assert found(*twins).best.choice == {"name": "first"}
    assert found(twins[2], twins[1], twins[0]).best.choice == {"name": "second"}


def test_the_best_is_the_most_accurate_on_average_of_those_trained_in_full():
    candidates = [
        ("good on average", 900, 5, [0.75, 0.75, 0.75]),
        ("best once", 100, 5, [1.0, 0.25, 0.25]),
        ("good for a third of the steps", 100, 2, [1.0, 1.0, 1.0]),
    ]
    assert found(*candidates).best.choice == {"name": "good on average"}
    assert [each.choice["name"] for each in found(*candidates).candidates] == ["good on average", "best once"]


def test_front_has_what_no_candidate_beats():
    result = nnopt.search(widths(), **OPTIONS)
    for cost in ("parameters", "macs", "latency_seconds"):
        front = result.front(cost)
        costs, accuracies = ([row[name] for row in front] for name in (cost, "accuracy"))
        assert costs == sorted(costs) and accuracies == sorted(accuracies)
        assert all(
            row["low"] <= row["accuracy"] <= row["high"] and row["latency_seconds"] > 0 for row in front
        )
        seconds = result.latency()
        for other in result.candidates:
            own = seconds[other.spec.to_json()] if cost == "latency_seconds" else getattr(other, cost)
            cheaper = [row for row in front if row[cost] <= own]
            assert any(row["accuracy"] >= other.score for row in cheaper)


def test_a_choice_by_latency_leaves_slow_candidates_out(monkeypatch):
    result = nnopt.search(widths(), **OPTIONS)
    seconds = {c.spec.to_json(): 1e-3 * c.parameters for c in result.candidates}
    result._latency, result.budget = seconds, nnopt.Budget(latency_seconds=0.7)
    assert result.best.parameters <= 700 < max(c.parameters for c in result.candidates)
    result.budget = nnopt.Budget(latency_seconds=0.1)
    with pytest.raises(NnoptError) as error:
        _ = result.best
    assert str(error.value) == "no candidate runs within 0.1 seconds; received 0.31 for the fastest."
