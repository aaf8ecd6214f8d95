"""Search for a structure under a budget: a space of networks, candidates from Optuna, validation data only.

Candidates are asked for in generations of a fixed size and told back in order, and every trained candidate is
a stored record. So a search gives the same rows with one process, with several or on a cluster, and a search
that was killed goes on where it stopped. Chapters 03, 04 and 05 use it.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nnopt_lib.checks import NnoptError, check_choice, check_int, refuse
from nnopt_lib.data import Data
from nnopt_lib.measure.costs import count
from nnopt_lib.nas.budgets import Budget
from nnopt_lib.nas.result import Candidate, SearchResult, loaded_once
from nnopt_lib.structure.spec import NetSpec
from nnopt_lib.training.recipe import Training

SAMPLERS = ("grid", "random", "tpe", "nsga2")
HALVINGS = ("successive", "hyperband")
GENERATION = 10  # candidates asked for at once, however many workers there are
ETA = 3  # of successive halving: so many times more steps, for one in so many candidates
_LOOKED_AT = 2000  # networks of a space that are built to see whether a budget can be met

Choice = dict[str, Any]


class SearchSpace:
    """Networks to choose from: a builder, and what each of its options may be.

    Parameters:
        build: a function that returns a `NetSpec`, such as `mlp` or your own.
        options: a list gives the choices of an option, a range whole numbers; anything else is fixed.

    Errors: no option with a choice, an empty list or range.

    Example:
        >>> from nnopt_lib import mlp
        >>> space = SearchSpace(mlp, units=[(8,), (16,), (8, 8)], inputs=64, outputs=10)
        >>> space.size, space.choices()[0]
        (3, {'units': (8,)})
    """

    def __init__(self, build: Callable[..., NetSpec], **options: Any) -> None:
        self.build_network = build
        self.free = {name: list(v) for name, v in options.items() if isinstance(v, (list, range))}
        self.fixed = {name: value for name, value in options.items() if name not in self.free}
        empty = [name for name, values in self.free.items() if not values]
        if empty or not self.free:
            rule = "a search space needs something to choose from: an option with a list or a range"
            refuse(rule, f"nothing in {', '.join(empty)}" if empty else "none")
        self.size = math.prod(map(len, self.free.values()))

    def choices(self) -> list[Choice]:
        """All of them; of a large space 2,000, drawn evenly, always the same."""
        if self.size <= _LOOKED_AT:
            return [dict(zip(self.free, v, strict=True)) for v in itertools.product(*self.free.values())]
        random = np.random.default_rng(0)
        return [
            {name: values[random.integers(len(values))] for name, values in self.free.items()}
            for _ in range(_LOOKED_AT)
        ]

    def build(self, choice: Mapping[str, Any]) -> NetSpec | None:
        """The network of a choice, or None where the builder refuses it."""
        try:
            return self.build_network(**{**self.fixed, **choice})
        except NnoptError:
            return None

    def suggest(self, trial: Any) -> Choice:
        """The choice of one of Optuna's trials."""
        # Optuna is asked for indices: its categories must be numbers or text, and options may be anything.
        indices = {
            name: trial.suggest_int(name, 0, len(values) - 1)
            if all(isinstance(value, int) for value in values)
            else trial.suggest_categorical(name, list(range(len(values))))
            for name, values in self.free.items()
        }
        return {name: self.free[name][index] for name, index in indices.items()}


def search(
    space: SearchSpace,
    *,
    data: str | Data,
    budget: Budget | None = None,
    training: Training | None = None,
    seeds: int = 10,
    candidates: int | None = None,
    sampler: str | None = None,
    objectives: Sequence[str] = ("accuracy",),
    halving: str | None = None,
    experiment: str = "search",
    seed: int = 0,
    jobs: int | None = None,
    cluster: str | None = None,
    recompute: bool = False,
) -> SearchResult:
    """Train candidates of `space` within a budget, choose by validation accuracy, and tell what was found.

    Parameters:
        space: what to choose from. data: the name of a data set, or `Data` with a validation part.
        budget: networks above it are never trained; by latency they are left out of the choice afterwards.
        training: the recipe of every candidate; 20 epochs of Adam by default.
        seeds: of first weights and batches, from 0; the same for all candidates, trained as one stack.
        candidates: different networks to train, 30 by default, or all if the space has no more.
        sampler: Optuna's ``"tpe"``, ``"random"`` or ``"nsga2"``, or ``"grid"`` for all in turn; by default
            the grid where it is small enough, else tpe. Random search at equal `candidates` is the control.
        objectives: ``"accuracy"`` (on validation data), and a counted cost to keep low as well.
        halving: ``"successive"`` trains all for a ninth of the steps, the best third for a third, the best of
            these in full (Jamieson & Talwalkar 2016); ``"hyperband"`` from three beginnings (Li et al. 2018).
        experiment: name of the stored records. seed: of the sampler.
        jobs, cluster, recompute: as in `run_experiment`.

    Returns a `SearchResult`. Errors, before training: a budget that nothing meets, an unknown word, data
    without a validation part, the test set asked for.

    Example:
        >>> from nnopt_lib import mlp
        >>> space = SearchSpace(mlp, units=[(8,), (16,)], inputs=64, outputs=10)
        >>> recipe = Training(epochs=1, learning_rate=0.1)
        >>> result = search(space, data="digits", training=recipe, seeds=3)
        >>> [candidate.parameters for candidate in result.candidates], result.best.parameters
        ([610, 1210], 1210)
    """
    loaded = _check(data, seeds, objectives, halving)
    recipe = training or Training(epochs=20, batch_size=32, optimizer="adam", learning_rate=3e-3)
    total = min(space.size, 30 if candidates is None else check_int("candidates", candidates, at_least=1))
    _check_budget(space, budget or Budget())
    if sampler is None:
        sampler = "grid" if space.size <= total else "tpe"
    check_choice("sampler", sampler, SAMPLERS)
    options = {"jobs": jobs, "cluster": cluster, "recompute": recompute}
    result = SearchResult(experiment, data, loaded, recipe, seeds, budget or Budget(), options)
    asking = _Asking(space, budget or Budget(), sampler, objectives, seed, total)
    for begin, rungs in _brackets(halving, recipe, len(loaded.x_train), total):
        asking.until(begin, result, rungs)
    return result


def _brackets(
    halving: str | None, training: Training, examples: int, total: int
) -> list[tuple[int, list[int]]]:
    """How many candidates to begin with, and the steps of each rung, one bracket after the other."""
    full = training.total_steps(examples)
    if halving is None:
        return [(total, [full])]
    rungs = [max(1, full // ETA**power) for power in (2, 1, 0)]
    if halving == "successive":
        return [(total, rungs)]
    parts = [len(part) for part in np.array_split(np.arange(total), 3)]
    return [(part, rungs[first:]) for first, part in enumerate(parts) if part]


class _Asking:
    """Candidates from Optuna, generation by generation; a network is trained once, whatever is asked for."""

    def __init__(
        self,
        space: SearchSpace,
        budget: Budget,
        sampler: str,
        objectives: Sequence[str],
        seed: int,
        total: int,
    ) -> None:
        self.space, self.budget, self.objectives = space, budget, tuple(objectives)
        self.seen: dict[str, Candidate] = {}
        self.grid = iter(space.choices()) if sampler == "grid" else None
        self.study = _study(sampler, self.objectives, seed)
        self.left = 100 * total + 1000  # asks, before a space counts as exhausted

    def until(self, total: int, result: SearchResult, rungs: Sequence[int]) -> None:
        """Ask for `total` new candidates and take them through the rungs."""
        fresh: list[Candidate] = []
        size = total if len(rungs) > 1 else GENERATION  # halving compares all of its bracket
        while len(fresh) < total:
            generation, trials = self._generation(min(size, total - len(fresh)))
            if not generation:
                break
            fresh += generation
            self._train(generation, result, rungs)
            self._tell(trials)

    def _generation(self, size: int) -> tuple[list[Candidate], list[tuple[Any, Candidate]]]:
        generation: list[Candidate] = []
        trials: list[tuple[Any, Candidate]] = []
        while len(generation) < size and self.left > 0:
            self.left -= 1
            trial = None if self.grid is not None else self.study.ask()
            choice = next(self.grid, None) if self.grid is not None else self.space.suggest(trial)
            if choice is None:
                break
            spec = self.space.build(choice)
            if spec is None or not self.budget.allows(spec):
                if trial is not None:
                    self.study.tell(trial, state=_failed())
                continue
            key = spec.to_json()
            if key not in self.seen:
                cost = count(spec)
                self.seen[key] = Candidate(choice, spec, cost.parameters, cost.macs)
                generation.append(self.seen[key])
            if trial is not None:
                trials.append((trial, self.seen[key]))
        return generation, trials

    def _train(self, generation: list[Candidate], result: SearchResult, rungs: Sequence[int]) -> None:
        alive = generation
        for rung, steps in enumerate(rungs):
            result.train(alive, steps)
            if rung + 1 < len(rungs):
                keep = max(1, -(-len(alive) // ETA))
                alive = sorted(alive, key=lambda each: -each.score)[:keep]

    def _tell(self, trials: list[tuple[Any, Candidate]]) -> None:
        for trial, candidate in trials:
            values = [candidate.score if o == "accuracy" else getattr(candidate, o) for o in self.objectives]
            self.study.tell(trial, values)


def _study(sampler: str, objectives: Sequence[str], seed: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its progress bars miss ipywidgets inside a notebook
        import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kinds = {
        "random": optuna.samplers.RandomSampler,
        "nsga2": optuna.samplers.NSGAIISampler,
        "tpe": optuna.samplers.TPESampler,
        "grid": optuna.samplers.RandomSampler,  # never asked
    }
    directions: list[Any] = [
        "maximize" if objective == "accuracy" else "minimize" for objective in objectives
    ]
    options: dict[str, Any] = {"population_size": GENERATION} if sampler == "nsga2" else {}
    return optuna.create_study(sampler=kinds[sampler](seed=seed, **options), directions=directions)


def _failed() -> Any:
    import optuna

    return optuna.trial.TrialState.FAIL


# ---------------------------------------------------------------- checks


def _check(data: str | Data, seeds: int, objectives: Sequence[str], halving: str | None) -> Data:
    check_int("seeds", seeds, at_least=1)
    if halving is not None:
        check_choice("halving", halving, HALVINGS)
    for objective in objectives:
        if "test" in str(objective):
            rule = "the test set never chooses; objectives are accuracy (on validation data) and costs"
            refuse(rule, repr(objective), "Read found.test() after the search.")
        check_choice("objective", objective, ("accuracy", "parameters", "macs"))
    if "accuracy" not in objectives:
        refuse("objectives must include accuracy", list(objectives))
    if halving and len(objectives) > 1:
        refuse("halving ranks by accuracy alone", list(objectives), "Leave out halving, or the cost.")
    loaded = loaded_once(data) if isinstance(data, str) else data
    if len(loaded.x_validation) == 0:
        remedy = "Load the data with a validation part; the test set is never used to choose."
        refuse("a search needs validation data", "none", remedy)
    return loaded


def _check_budget(space: SearchSpace, budget: Budget) -> None:
    """Refuse a space of which nothing can be built, or nothing within the budget."""
    smallest: dict[str, int] = {}
    for choice in space.choices():
        spec = space.build(choice)
        if spec is None:
            continue
        if budget.allows(spec):
            return
        cost = count(spec)
        for name in ("parameters", "macs"):
            smallest[name] = min(smallest.get(name, getattr(cost, name)), getattr(cost, name))
    if not smallest:
        refuse("a search space needs a network that can be built", "none of its choices")
    limits = {name: getattr(budget, name) for name in smallest if getattr(budget, name) is not None}
    asked = ", ".join(f"{most} {name}" for name, most in limits.items())
    least = ", ".join(f"{smallest[name]} {name}" for name in limits)
    refuse(f"no network of the space meets the budget; the smallest has {least}", asked)
