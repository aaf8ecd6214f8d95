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
from tests.dask_processes import dask_processes
from tests.nas.spaces import OPTIONS, RECIPE, WIDTHS, widths

pytestmark = pytest.mark.torch


def run_in(folder, monkeypatch, **options):
    monkeypatch.setenv("NNOPT_STORE", str(folder))
    return nnopt.search(widths(), **{**OPTIONS, **options})


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2", "grid"])
def test_samplers_repeat_themselves_and_never_train_twice(sampler, tmp_path, monkeypatch):
    options = {"sampler": sampler, "candidates": 6, "seed": 5}
    if sampler == "nsga2":
        options["objectives"] = ("accuracy", "parameters")
    first = run_in(tmp_path / "a", monkeypatch, **options)
    again = run_in(tmp_path / "b", monkeypatch, **options)
    assert first.rows == again.rows and len(first.candidates) == 6
    assert len({candidate.spec.to_json() for candidate in first.candidates}) == 6


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
