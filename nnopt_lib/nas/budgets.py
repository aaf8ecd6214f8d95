"""What a network may cost: a `Budget` to stay below, and `at_budget` to come close to one.

Chapters 03 to 05 compare structures at equal cost; costs are counted by `nnopt_lib.measure`.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from nnopt_lib.checks import NnoptError, check_int, check_number, refuse
from nnopt_lib.measure.costs import count
from nnopt_lib.structure.spec import NetSpec

WITHIN = 0.03
_SCALED = ("widths", "units", "filters")


@dataclass(frozen=True)
class Budget:
    """The most that a network may cost; None does not limit.

    Parameters:
        parameters: all trainable parameters. macs: multiply-accumulate operations for one example.
        latency_seconds: median seconds for one batch, measured, so it depends on the machine.

    Example:
        >>> from nnopt_lib import mlp
        >>> Budget(parameters=2410).allows(mlp((32,), inputs=64, outputs=10))
        True
    """

    parameters: int | None = None
    macs: int | None = None
    latency_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("parameters", "macs"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), at_least=1)
        if self.latency_seconds is not None:
            check_number("latency_seconds", self.latency_seconds, above=0)

    def allows(self, spec: NetSpec) -> bool:
        """Whether the counted costs of `spec` stay within; latency is measured elsewhere."""
        cost = count(spec)
        return all(
            most is None or spent <= most
            for spent, most in ((cost.parameters, self.parameters), (cost.macs, self.macs))
        )


def at_budget(
    family: Callable[..., NetSpec], *, parameters: int | None = None, macs: int | None = None, **options: Any
) -> NetSpec:
    """The network of a family that uses a budget up: at most the budget, and at least 97 % of it.

    Parameters:
        family: a builder that takes `widths`, `units` or `filters`, such as `resnet` or `mlp`; or your own.
        parameters, macs: the budget, exactly one of them.
        options: of the family. Its widths are proportions here: they are scaled together, rounded, and then
            raised one by one as far as the budget allows.

    Returns a new description. Refused: a budget below the family's smallest network, and one that no widths
    come close enough to (small budgets move in large steps), naming the nearest costs.

    Example:
        >>> from nnopt_lib import mlp
        >>> spec = at_budget(mlp, parameters=2410, units=(1, 1), inputs=64, outputs=10)
        >>> spec.shapes["dense_1"], spec.shapes["dense_2"]
        ((24,), (24,))
    """
    if (parameters is None) == (macs is None):
        refuse("at_budget needs either parameters or macs", "both" if macs else "none")
    kind, most = ("macs", macs) if parameters is None else ("parameters", parameters)
    check_int(kind, most, at_least=1)
    name = next((each for each in _SCALED if each in options), None)
    if name is None:
        refuse(f"at_budget scales one of {', '.join(_SCALED)}; pass it as proportions", sorted(options))
    search = _Widths(family, name, kind, int(most or 0), options)
    return search.near(tuple(options[name]))


class _Widths:
    """Widths of one family by what their network costs; None where it cannot be built."""

    def __init__(self, family: Callable[..., NetSpec], name: str, kind: str, most: int, options: Any) -> None:
        self.family, self.name, self.kind, self.most, self.options = family, name, kind, most, options
        self.called = getattr(family, "__name__", "the family")  # a functools.partial has no name
        self.costs: dict[tuple[int, ...], int | None] = {}

    def build(self, widths: tuple[int, ...]) -> NetSpec:
        return self.family(**{**self.options, self.name: widths})

    def cost(self, widths: tuple[int, ...]) -> int | None:
        if widths not in self.costs:
            try:
                self.costs[widths] = getattr(count(self.build(widths)), self.kind)
            except NnoptError:  # too narrow for the family, or for its number of heads
                self.costs[widths] = None
        return self.costs[widths]

    def fits(self, widths: tuple[int, ...]) -> bool:
        cost = self.cost(widths)
        return cost is not None and cost <= self.most

    def near(self, proportions: Sequence[float]) -> NetSpec:
        best = self._raised(self._scaled(proportions))
        if not self._close(best):  # one step is too large: trade one width against the others
            traded = [each for each in self._traded(best) if self._close(each)]
            if not traded:
                self._refuse(best)
            best = min(traded, key=lambda each: self._distortion(each, proportions))
        return self.build(best)

    def _close(self, widths: tuple[int, ...]) -> bool:
        return (self.cost(widths) or 0) >= (1 - WITHIN) * self.most

    def _traded(self, widths: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """For each stage: the other widths moved a little, and as much for it as then fits."""
        # Smaller reach with more stages: all combinations of the other widths are tried.
        reach = {2: 12, 3: 4, 4: 2}.get(len(widths), 1)
        for stage, width in enumerate(widths):
            others = [range(max(1, w - reach), w + reach + 1) for w in widths]
            others[stage] = range(1)  # solved for below
            yield from (
                most
                for each in itertools.product(*others)
                if (most := self._most_at(stage, each, 4 * width + 16))
            )

    def _most_at(self, stage: int, widths: tuple[int, ...], end: int) -> tuple[int, ...] | None:
        """`widths` with the largest one below `end` that fits for `stage`."""

        def at(width: int) -> tuple[int, ...]:
            return (*widths[:stage], width, *widths[stage + 1 :])

        def above(width: int) -> bool:
            return (self.cost(at(width)) or 0) > self.most

        # Costs rise with the width, so the first that is too wide is found by halving; its index is the last
        # that fits, since the range begins at 1.
        widest = bisect.bisect_left(range(1, end), True, key=above)
        return at(widest) if widest else None

    @staticmethod
    def _distortion(widths: Sequence[int], proportions: Sequence[float]) -> float:
        """How far the widths are from the proportions: the largest over the smallest ratio."""
        ratios = [width / share for width, share in zip(widths, proportions, strict=True)]
        return max(ratios) / min(ratios)

    def _refuse(self, best: tuple[int, ...]) -> NoReturn:
        above = (best[0] + 1, *best[1:])
        near = f"within {100 * WITHIN:.0f} % of {self.most} {self.kind}"
        refuse(
            f"no {self.name} of {self.called} come {near}",
            f"{self.cost(best)} with {best}, {self.cost(above)} with {above}",
            "Give a larger budget, or more widths to vary.",
        )

    def _scaled(self, proportions: Sequence[float]) -> tuple[int, ...]:
        """The widest network in these proportions that fits."""
        if not proportions or min(proportions) <= 0:
            refuse(f"{self.name} must be proportions above 0, at least one", tuple(proportions))

        def at(scale: float) -> tuple[int, ...]:
            return tuple(max(1, round(scale * each)) for each in proportions)

        low = 1.0 / max(proportions)  # all widths are 1 here, or nearly
        self._let_it_refuse(at, low)
        while self.cost(at(low)) is None:
            low *= 1.1
        if not self.fits(at(low)):
            rule = f"{self.called} needs at least {self.cost(at(low))} {self.kind}, with {at(low)}"
            refuse(rule, self.most, f"Give at least that many {self.kind}, or fewer blocks.")
        high = 2 * low  # doubled until it is too wide, then halved: no bound is known beforehand
        while self.fits(at(high)):
            low, high = high, 2 * high
        while high / low > 1.001:  # finer steps round to the same widths below a thousand
            middle = (low * high) ** 0.5  # half of the way in proportion, as widths are scaled
            low, high = (middle, high) if self.fits(at(middle)) else (low, middle)
        return at(low)

    def _let_it_refuse(self, at: Callable[[float], tuple[int, ...]], low: float) -> None:
        """Let the family itself say what is wrong, if no width of up to 100 helps."""
        if self.cost(at(low)) is None and self.cost(at(100 * low)) is None:
            self.build(at(100 * low))

    def _raised(self, widths: tuple[int, ...]) -> tuple[int, ...]:
        """Raise one width after the other by one, the dearest first, while it fits."""
        while True:
            more = [(*widths[:i], widths[i] + 1, *widths[i + 1 :]) for i in range(len(widths))]
            more = [each for each in more if self.fits(each)]
            if not more:
                return widths
            widths = max(more, key=lambda each: self.cost(each) or 0)
