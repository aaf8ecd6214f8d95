import doctest
import importlib
from pathlib import Path

import pytest

import nnopt_lib

LIBRARY = Path(nnopt_lib.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(LIBRARY).with_suffix("").parts) for path in LIBRARY.rglob("[a-z]*.py")
)
FRAMEWORK = {m for m in MODULES if m.startswith(("backends.", "models.", "nas.", "training."))} | {
    *(
        "formats.compare",
        "formats.layers",
        "formats.runners",
        "measure.reports",
        "pruning.checkpoints",
        "pruning.importance",
        "pruning.iterative",
    ),
    *("pruning.node_masks", "pruning.penalties", "pruning.prune", "pruning.removal", "pruning.repair"),
    *("pruning.second_order", "compression.quantized_models"),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))  # examples write claims, figures and rows, too


def check_examples(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"nnopt_lib.{module}"))
    assert results.failed == 0


@pytest.mark.parametrize("module", sorted(set(MODULES) - FRAMEWORK))
def test_examples_run_and_print_what_they_say(module):
    check_examples(module)


@pytest.mark.torch
@pytest.mark.keras
@pytest.mark.parametrize("module", sorted(FRAMEWORK))
def test_examples_with_a_framework_run_and_print_what_they_say(module):
    check_examples(module)


@pytest.mark.torch
def test_every_public_name_has_an_example():
    measures = ["count", "latency", "size_on_disk", "interval", "pareto_front"]
    items = {name: getattr(nnopt_lib, name) for name in nnopt_lib.__all__}
    items |= {name: getattr(nnopt_lib.measure, name) for name in measures}
    items |= {"save_figure": nnopt_lib.figures.save_figure}
    without = [
        name
        for name, item in items.items()
        if callable(item) and ">>>" not in (item.__doc__ or "") and not issubclass_of_error(item)
    ]
    # Builders without a choice, and records that a function above returns.
    assert set(without) <= {
        "lenet_300_100",
        "lenet_5",
        "mnist1d_mlp",
        "mnist1d_cnn",
        "cnn",
        "Data",
        "History",
    }


def issubclass_of_error(item: object) -> bool:
    return isinstance(item, type) and issubclass(item, Exception)
