"""What a search found: candidates trained as stacks of seeds, each a stored record; the best, the front."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, refuse
from nnopt_lib.data import Data, load_data
from nnopt_lib.experiments.rows import Row
from nnopt_lib.experiments.run import run_experiment
from nnopt_lib.frameworks import training_backend
from nnopt_lib.measure.statistics import interval, pareto_front
from nnopt_lib.measure.timing import time_in_turns
from nnopt_lib.models.build import build
from nnopt_lib.nas.budgets import Budget
from nnopt_lib.structure.spec import NetSpec
from nnopt_lib.training.fit import fit_many, runner
from nnopt_lib.training.recipe import Training

COSTS = ("parameters", "macs", "latency_seconds")


@dataclass(frozen=True)
class Trained:
    """What is trained for one candidate: its description, the recipe, and how many seeds, from 0."""

    network: str
    training: Training
    seeds: int


@dataclass
class Candidate:
    """One network of a search, with its costs, and what it reached with the most steps that it was given."""

    choice: dict[str, Any]
    spec: NetSpec
    parameters: int
    macs: int
    steps: int = 0
    validation: list[float] = field(default_factory=list)  # accuracy by seed

    @property
    def score(self) -> float:
        """Mean validation accuracy over the seeds."""
        return float(np.mean(self.validation))


@functools.lru_cache(maxsize=4)
def loaded_once(name: str) -> Data:
    """A data set by its name, loaded once in each process: workers get the name, not the arrays."""
    return load_data(name)


def _evaluate(trained: Trained, data: str | Data, part: str) -> list[dict[str, Any]]:
    """One row per seed: accuracy on a part of the data. One thread, so that every machine rounds alike."""
    from threadpoolctl import threadpool_limits

    data = loaded_once(data) if isinstance(data, str) else data
    training_backend("torch")  # loaded before its threads are limited
    seeds = range(trained.seeds)
    with threadpool_limits(1):
        stack = fit_many(
            NetSpec.from_json(trained.network), data, trained.training, seeds=seeds, device="cpu"
        )
        rows = stack.evaluate(getattr(data, f"x_{part}"), getattr(data, f"y_{part}"))
    return [{"seed": row["seed"], f"{part}_accuracy": row["accuracy"]} for row in rows]


class SearchResult:
    """What a search found. `rows` are all that was trained, one per candidate, length and seed.

    Example:
        >>> from nnopt_lib import SearchSpace, mlp, search
        >>> space = SearchSpace(mlp, units=[(8,), (16,)], inputs=64, outputs=10)
        >>> result = search(space, data="digits", training=Training(epochs=1, learning_rate=0.1), seeds=3)
        >>> len(result.rows), len(result.test())
        (6, 3)
    """

    def __init__(
        self,
        experiment: str,
        data: str | Data,
        loaded: Data,
        training: Training,
        seeds: int,
        budget: Budget,
        options: dict[str, Any],
    ) -> None:
        self.experiment, self.data, self.loaded, self.training = experiment, data, loaded, training
        self.seeds, self.budget, self.options = seeds, budget, options
        self.rows: list[Row] = []
        self._test_rows: list[Row] = []
        self.trained: list[Candidate] = []
        self._latency: dict[str, float] = {}

    def train(self, candidates: Sequence[Candidate], steps: int) -> None:
        """Train candidates for so many steps, and keep their validation accuracies."""
        shape = self.loaded.x_train.shape[1:]
        for candidate in candidates:
            if candidate.spec.input_shape != shape:
                refuse(f"the space's networks must read the data's {shape}", candidate.spec.input_shape)
        settings = [self._setting(candidate, steps) for candidate in candidates]
        compute = functools.partial(_evaluate, data=self.data, part="validation")
        rows = run_experiment(self.experiment, settings, compute, data=self.loaded, **self.options)
        for index, candidate in enumerate(candidates):  # rows stand in the order of the settings
            seed_rows = rows[index * self.seeds : (index + 1) * self.seeds]
            candidate.steps = steps
            candidate.validation = [row["validation_accuracy"] for row in seed_rows]
            self.rows += [
                Row({**candidate.choice, "steps": steps, **_brief(row)}, experiment=row.experiment)
                for row in seed_rows
            ]
            if candidate not in self.trained:
                self.trained.append(candidate)

    def _setting(self, candidate: Candidate, steps: int) -> Trained:
        recipe = dataclasses.replace(self.training, steps=steps)
        return Trained(candidate.spec.to_json(), recipe, self.seeds)

    @property
    def candidates(self) -> list[Candidate]:
        """Those that were trained in full, in the order in which they were asked for."""
        most = max(candidate.steps for candidate in self.trained)
        return [candidate for candidate in self.trained if candidate.steps == most]

    def _within(self) -> list[Candidate]:
        if self.budget.latency_seconds is None:
            return self.candidates
        seconds = self.latency()
        kept = [c for c in self.candidates if seconds[c.spec.to_json()] <= self.budget.latency_seconds]
        if not kept:
            least = min(seconds.values())
            refuse(
                f"no candidate runs within {self.budget.latency_seconds:g} seconds",
                f"{least:.3g} for the fastest",
            )
        return kept

    @property
    def best(self) -> Candidate:
        """The candidate of the highest mean validation accuracy; of equal ones the smallest."""
        return min(self._within(), key=lambda each: (-each.score, each.parameters))

    def test(self, candidate: Candidate | None = None) -> list[float]:
        """Test accuracy by seed of `best`, or of one that was chosen without it; stored on its own."""
        candidate = candidate or self.best
        compute = functools.partial(_evaluate, data=self.data, part="test")
        settings = [self._setting(candidate, candidate.steps)]
        rows = run_experiment(f"{self.experiment}-test", settings, compute, data=self.loaded, **self.options)
        self._test_rows += rows
        return [row["test_accuracy"] for row in rows]

    @property
    def evidence(self) -> list[Row]:
        """The rows behind a statement about this search: all that was trained, and all that `test` read."""
        return [*self.rows, *self._test_rows]

    def latency(self, *, batch: int = 1, repeats: int = 50) -> dict[str, float]:
        """Median seconds of a forward pass (PyTorch) by description; measured here, in turns, and once."""
        missing = {c.spec.to_json(): c.spec for c in self.candidates if c.spec.to_json() not in self._latency}
        if missing:
            x = self.loaded.x_validation[:batch]
            runs = {key: runner(build(spec), x, device="cpu") for key, spec in missing.items()}
            seconds = time_in_turns(runs, repeats=repeats)
            # Medians: on a shared machine a few calls wait long for others, and would decide a mean.
            self._latency |= {key: float(np.median(times)) for key, times in seconds.items()}
        return self._latency

    def front(self, cost: str = "parameters") -> list[dict[str, Any]]:
        """Candidates that no other beats in validation accuracy and `cost`, from the cheapest upward.

        One row each: the choice, `accuracy` (mean) with its 95 % interval `low` and `high`, `parameters`,
        `macs`, `latency_seconds`. cost: ``"parameters"``, ``"macs"`` or ``"latency_seconds"`` (measured).
        """
        check_choice("cost", cost, COSTS)
        seconds, rows = self.latency(), []
        for candidate in self._within():
            if self.seeds >= 3:
                mean, low, high = interval(candidate.validation)
            else:  # an interval needs three
                mean, low, high = candidate.score, math.nan, math.nan
            row = {**candidate.choice, "accuracy": mean, "low": low, "high": high}
            row |= {"parameters": candidate.parameters, "macs": candidate.macs}
            rows.append(row | {"latency_seconds": seconds[candidate.spec.to_json()]})
        return [dict(row) for row in pareto_front(rows, cost=cost, value="accuracy")]

    def __repr__(self) -> str:
        best = self.best
        costs = f"{best.parameters:,} parameters, {best.macs:,} MACs"
        return (
            f"SearchResult({len(self.candidates)} candidates, best {best.choice}: {best.score:.3f}, {costs})"
        )


def _brief(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("seed", "validation_accuracy", "run_id")}
