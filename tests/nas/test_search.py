"""A search gives the same rows however it is run, never reads the test set to choose, and goes on after a kill."""

import dataclasses
import os
import signal
import threading
import time

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.experiments.rows import Row
from nnopt_lib.nas import result as nas_result
from nnopt_lib.structure.spec import NetSpec
from tests.dask_processes import dask_processes
from tests.nas.spaces import OPTIONS, RECIPE, WIDTHS, widths

pytestmark = pytest.mark.torch


def run_in(folder, monkeypatch, **options):
    monkeypatch.setenv("NNOPT_STORE", str(folder))
    return nnopt.search(widths(), **{**OPTIONS, **options})


# Samplers, on networks whose accuracy is a formula, so that many can be asked for without training one

PEAK = (44, 20)  # of two layers' widths from 1 to 64: an expensive place, so that good is not cheap by itself


def two_layers(first, second):
    """Each width a number, or in a tuple, which is a category to Optuna."""
    widths = [width[0] if isinstance(width, tuple) else width for width in (first, second)]
    return nnopt.mlp(tuple(widths), inputs=64, outputs=10)


def hidden(spec):
    return tuple(node.options["units"] for node in spec.nodes if node.op == "dense")[:2]


def hill(spec):
    """1 at the peak, less by the squared distance from it."""
    return 1 - sum(((width - peak) / 64) ** 2 for width, peak in zip(hidden(spec), PEAK, strict=True))


@pytest.fixture
def by_formula(monkeypatch):
    """A function that searches without training; accuracies are those of a formula, `hill` by default."""

    def search(sampler, formula=hill, options=None, **more):
        def computed(experiment, settings, compute, **_):
            return [
                Row(
                    {
                        "seed": seed,
                        "validation_accuracy": formula(NetSpec.from_json(setting.network)),
                        "run_id": "x",
                    },
                    experiment=experiment,
                )
                for setting in settings
                for seed in range(setting.seeds)
            ]

        monkeypatch.setattr(nas_result, "run_experiment", computed)
        options = options or {"first": range(1, 65), "second": range(1, 65)}
        space = nnopt.SearchSpace(two_layers, **options)
        return nnopt.search(space, sampler=sampler, **{**OPTIONS, "seeds": 1, **more})

    return search


def asked(result):
    return [hidden(candidate.spec) for candidate in result.candidates]


BOTH = ("accuracy", "parameters")


def test_a_sampler_repeats_itself_under_its_seed_and_no_two_are_the_same(by_formula):
    lists = []
    for sampler, objectives in (("random", BOTH[:1]), ("tpe", BOTH[:1]), ("nsga2", BOTH)):
        for seed in (5, 6):
            first, again = (
                asked(by_formula(sampler, candidates=24, seed=seed, objectives=objectives)) for _ in range(2)
            )
            assert first == again and len(set(first)) == len(first) == 24  # and none is trained twice
            lists.append(first)
    lists.append(asked(by_formula("grid", candidates=24)))
    assert len({tuple(sorted(widths)) for widths in lists}) == len(lists)


def test_a_grid_is_gone_through_from_its_beginning_whatever_the_seed(by_formula):
    options = {"first": [3, 1, 2], "second": [9, 7]}
    in_turn = [(3, 9), (3, 7), (1, 9), (1, 7), (2, 9), (2, 7)]
    for seed in (0, 1):
        assert asked(by_formula("grid", options=options, seed=seed)) == in_turn
        assert asked(by_formula("grid", options=options, seed=seed, candidates=4)) == in_turn[:4]
    assert asked(by_formula(None, options=options)) == in_turn  # where the space is small enough
    assert asked(by_formula(None, candidates=40)) == asked(by_formula("tpe", candidates=40))


def gap_of_later_half(result):
    later = result.candidates[len(result.candidates) // 2 :]
    return np.mean([1 - candidate.score for candidate in later])


@pytest.mark.parametrize(("kind", "of_random"), [("whole numbers", 0.5), ("categories", 0.85)])
def test_tpe_goes_where_candidates_were_good_and_random_search_does_not(by_formula, kind, of_random):
    """In the same number of candidates; random search is about 0.25 below the peak, whenever it asks.

    Of a category tpe learns nothing about its neighbors, so it needs more candidates to come as near.
    """
    options = {"first": range(1, 65), "second": range(1, 65)}
    if kind == "categories":
        options = {name: [(width,) for width in range(4, 65, 4)] for name in options}
    count = {"options": options, "candidates": 60}
    gaps = {
        sampler: np.mean([gap_of_later_half(by_formula(sampler, seed=seed, **count)) for seed in range(5)])
        for sampler in ("random", "tpe")
    }
    assert 0.15 < gaps["random"] < 0.35
    assert gaps["tpe"] < of_random * gaps["random"]


@pytest.mark.parametrize("cost", ["parameters", "macs"])
def test_nsga2_moves_to_what_is_good_and_cheap_and_random_search_does_not(by_formula, cost):
    gaps, costs = {}, {}
    for sampler in ("random", "nsga2"):
        results = [
            by_formula(sampler, candidates=100, objectives=("accuracy", cost), seed=seed) for seed in range(3)
        ]
        later = [candidate for result in results for candidate in result.candidates[50:]]
        gaps[sampler] = np.mean([1 - candidate.score for candidate in later])
        costs[sampler] = np.mean([getattr(candidate, cost) for candidate in later])
    assert gaps["nsga2"] < 0.9 * gaps["random"]
    assert costs["nsga2"] < 0.9 * costs["random"]


def test_halving_keeps_the_first_of_equal_candidates(by_formula):
    recipe = dataclasses.replace(RECIPE, steps=18)
    nine = {"first": [4], "second": range(1, 10)}
    halving = {"candidates": 9, "halving": "successive", "training": recipe}
    found = by_formula("grid", lambda spec: 0.5, nine, **halving)
    steps = {hidden(candidate.spec)[1]: candidate.steps for candidate in found.trained}
    assert steps == {1: 18, 2: 6, 3: 6, **dict.fromkeys(range(4, 10), 2)}


# Trained


def test_a_trained_search_repeats_itself_in_another_store(tmp_path, monkeypatch):
    options = {"sampler": "tpe", "candidates": 3, "seed": 5}
    first = run_in(tmp_path / "a", monkeypatch, **options)
    again = run_in(tmp_path / "b", monkeypatch, **options)
    assert first.rows == again.rows and len(first.candidates) == 3


def test_candidates_over_budget_and_networks_that_cannot_be_are_never_trained():
    space = nnopt.SearchSpace(
        nnopt.cnn, filters=[(2,), (4,), (64, 64)], kernel=[2, 3], input_shape=(1, 8, 8), outputs=10
    )
    digits = nnopt.load_data("digits")
    parts = {
        f"x_{p}": getattr(digits, f"x_{p}").reshape(-1, 1, 8, 8) for p in ("train", "validation", "test")
    }
    images = dataclasses.replace(digits, **parts)
    result = nnopt.search(space, budget=nnopt.Budget(macs=10_000), **{**OPTIONS, "data": images})
    assert [candidate.choice for candidate in result.candidates] == [
        {"filters": (2,), "kernel": 3},
        {"filters": (4,), "kernel": 3},
    ]


@pytest.mark.parametrize("halving", ["successive", "hyperband"])
def test_halving_gives_the_best_third_three_times_the_steps(halving):
    recipe = dataclasses.replace(RECIPE, steps=18)
    result = nnopt.search(
        widths(), halving=halving, candidates=8, sampler="random", **{**OPTIONS, "training": recipe}
    )
    trained = {}
    for row in result.rows:
        trained.setdefault(row["steps"], {}).setdefault(row["units"], []).append(row["validation_accuracy"])
    assert sorted(trained) == [2, 6, 18]
    if halving == "successive":  # 8, then the best 3, then the best
        assert [len(trained[steps]) for steps in (2, 6, 18)] == [8, 3, 1]
        for short, long in ((2, 6), (6, 18)):
            means = {units: np.mean(values) for units, values in trained[short].items()}
            worst = min(means[units] for units in trained[long])
            assert all(mean <= worst for units, mean in means.items() if units not in trained[long])
    else:  # brackets of 3, 3 and 2 candidates that begin at 2, 6 and 18 steps
        assert [len(trained[steps]) for steps in (2, 6, 18)] == [3, 1 + 3, 1 + 1 + 2]
    assert result.best.steps == 18


# Workers


@pytest.fixture
def cluster(tmp_path):
    """A Dask scheduler and two worker processes on this machine: (address, the workers)."""
    with dask_processes(tmp_path) as processes:
        processes.add_worker()
        processes.add_worker()
        yield processes.address, processes.workers


def without_origin(rows):
    return [{name: value for name, value in row.items() if name != "run_id"} for row in rows]


def test_one_process_two_processes_and_a_cluster_give_identical_rows(cluster, tmp_path, monkeypatch):
    alone = run_in(tmp_path / "alone", monkeypatch, jobs=1)
    two = run_in(tmp_path / "two", monkeypatch, jobs=2)
    remote = run_in(tmp_path / "remote", monkeypatch, cluster=cluster[0])
    assert alone.rows == two.rows == remote.rows
    assert len(list((tmp_path / "remote" / "search").glob("*.json"))) == len(WIDTHS)


def test_a_worker_killed_in_the_middle_loses_nothing(cluster, tmp_path, monkeypatch):
    slow = {"training": dataclasses.replace(RECIPE, epochs=40)}
    expected = run_in(tmp_path / "alone", monkeypatch, jobs=1, **slow)
    folder = tmp_path / "remote" / "search"

    def kill_one():
        until = time.monotonic() + 60
        while len(list(folder.glob("*.json"))) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        done.append(len(list(folder.glob("*.json"))))
        cluster[1][0].send_signal(signal.SIGKILL)

    done = []
    killer = threading.Thread(target=kill_one)
    killer.start()
    monkeypatch.setenv("NNOPT_CLUSTER", cluster[0])
    remote = run_in(tmp_path / "remote", monkeypatch, **slow)
    killer.join()
    assert 2 <= done[0] < len(WIDTHS), "the worker was killed too late to tell anything"
    assert cluster[1][0].wait(10) == -signal.SIGKILL
    assert remote.rows == expected.rows


def test_a_search_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    whole = run_in(tmp_path / "a", monkeypatch, candidates=8, sampler="tpe")
    store = tmp_path / "a" / "search"
    records = sorted(store.glob("*.json"), key=os.path.getmtime)
    for record in records[4:]:
        record.unlink()
    times = {record: record.stat().st_mtime_ns for record in records[:4]}
    again = run_in(tmp_path / "a", monkeypatch, candidates=8, sampler="tpe")
    assert again.rows == whole.rows
    assert {record: record.stat().st_mtime_ns for record in records[:4]} == times
    assert len(list(store.glob("*.json"))) == 8


# Refusals


def test_a_cluster_that_does_not_answer_is_refused():
    with pytest.raises(NnoptError) as error:
        nnopt.search(widths(), cluster="tcp://", **OPTIONS)
    assert str(error.value) == (
        "a cluster must be the address of a Dask scheduler that answers; received 'tcp://' "
        "(missing port number in address ''). "
        "Start one with `dask scheduler`, or leave out cluster and NNOPT_CLUSTER to run here."
    )


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: nnopt.search(widths(), budget=nnopt.Budget(parameters=100), **OPTIONS),
            "no network of the space meets the budget; the smallest has 310 parameters; received 100 parameters.",
        ),
        (
            lambda: widths([]),
            "a search space needs something to choose from: an option with a list or a range; received nothing in units.",
        ),
        (
            lambda: nnopt.SearchSpace(nnopt.mlp, units=(8,), inputs=64, outputs=10),
            "a search space needs something to choose from: an option with a list or a range; received none.",
        ),
        (
            lambda: nnopt.search(
                nnopt.SearchSpace(nnopt.cnn, kernel=[2, 4], filters=(2,), input_shape=(1, 8, 8), outputs=2),
                **OPTIONS,
            ),
            "a search space needs a network that can be built; received none of its choices.",
        ),
        (
            lambda: nnopt.search(widths(), objectives=("test_accuracy",), **OPTIONS),
            "the test set never chooses; objectives are accuracy (on validation data) and costs; received "
            "'test_accuracy'. Read found.test() after the search.",
        ),
        (
            lambda: nnopt.search(widths(), objectives=("parameters",), **OPTIONS),
            "objectives must include accuracy; received ['parameters'].",
        ),
        (
            lambda: nnopt.search(widths(), **{**OPTIONS, "data": nnopt.load_data("digits", validation=0)}),
            "a search needs validation data; received none. Load the data with a validation part; the test set is "
            "never used to choose.",
        ),
        (
            lambda: nnopt.search(widths(), **{**OPTIONS, "seeds": 0}),
            "seeds must be a whole number, at least 1; received 0.",
        ),
        (
            lambda: nnopt.search(widths(), sampler="tp", **OPTIONS),
            "sampler must be one of grid, random, tpe, nsga2; received 'tp'. Did you mean 'tpe'?",
        ),
        (
            lambda: nnopt.search(widths(), halving="successive", objectives=("accuracy", "macs"), **OPTIONS),
            "halving ranks by accuracy alone; received ['accuracy', 'macs']. Leave out halving, or the cost.",
        ),
        (
            lambda: nnopt.search(
                nnopt.SearchSpace(nnopt.mlp, units=[(4,)], inputs=60, outputs=10), **OPTIONS
            ),
            "the space's networks must read the data's (64,); received (60,).",
        ),
        (
            lambda: nnopt.search(widths(), **OPTIONS).front("flops"),
            "cost must be one of parameters, macs, latency_seconds; received 'flops'.",
        ),
    ],
)
def test_bad_searches_are_refused_in_one_sentence(call, sentence):
    with pytest.raises(NnoptError) as error:
        call()
    assert str(error.value) == sentence
