"""Where the modules of the first layout are now, said in one sentence to whoever imports them.

For one release. The same as a table: book/moved.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

MOVED = {
    "allocation": ["pruning.allocation"],
    "book": ["course.book.build"],
    "bubblewrap": ["course.labs.sandbox.bubblewrap"],
    "budgets": ["nas.budgets"],
    "builders": ["structure.classics", "structure.graph"],
    "calibration": ["pruning.repair", "pruning.importance"],
    "chapters": ["course.chapters.state", "course.chapters.prepare", "course.chapters.source", "files"],
    "claims": ["results.claims"],
    "cli_labs": ["course.labs.commands"],
    "cli_results": ["course.chapters.commands"],
    "clusters": ["experiments.cluster"],
    "coupling": ["structure.coupling"],
    "course": ["course.labs.gradebook", "files"],
    "description": ["models.describe"],
    "drawing": ["results.plots"],
    "edits": ["structure.edits.connect", "structure.edits.deepen"],
    "environment": ["experiments.provenance"],
    "execution": ["course.chapters.kernel"],
    "experiment": ["experiments.run", "experiments.provenance"],
    "families": ["structure.families"],
    "figures": ["results.figures"],
    "found": ["nas.result"],
    "keras_backend": ["backends.keras", "backends.keras.build", "backends.keras.fit"],
    "keras_description": ["backends.keras.describe"],
    "keras_layers": ["backends.keras.layers"],
    "keras_loading": ["backends.keras"],
    "keras_masks": ["backends.keras.masks"],
    "keras_optimizers": ["backends.keras.optimizers"],
    "keras_penalties": ["backends.keras.penalties"],
    "keras_surgery": ["backends.keras.removal"],
    "lab_cells": ["course.labs.submissions"],
    "lab_collecting": ["course.labs.collect"],
    "lab_execution": ["course.labs.execute"],
    "lab_grading": ["course.labs.grade"],
    "lab_report": ["course.labs.report"],
    "lab_sources": ["course.labs.sources"],
    "labs": ["course.labs.student"],
    "launching": ["course.book.links"],
    "limited": ["course.labs.sandbox.exec_limited"],
    "links": ["course.book.links"],
    "look": ["results.style"],
    "masks": ["pruning.masks", "structure.weights"],
    "node_scores": ["pruning.importance"],
    "nodes": ["pruning.node_masks", "models.describe"],
    "operations": ["structure.operations"],
    "pages": ["course.book.pages"],
    "papers": ["results.exports"],
    "penalties": ["pruning.penalties"],
    "play": ["course.book.widgets"],
    "pruning": ["pruning.prune", "pruning.iterative"],
    "published": ["results.staleness", "paths"],
    "removal": ["models.channels", "pruning.node_masks", "structure.edits.resize"],
    "replication": ["structure.edits.resize", "structure.weights", "structure.spec", "structure.edits.widen"],
    "running": ["course.chapters.run"],
    "sandbox": ["course.labs.sandbox.sandbox"],
    "schedules": ["pruning.schedules"],
    "scores": ["pruning.scores"],
    "searching": ["nas.search"],
    "selection": ["pruning.topk"],
    "shrinking": ["structure.edits.shrink"],
    "spec": ["structure.spec", "structure.weights"],
    "store": ["experiments.records", "files", "paths"],
    "surgery": ["pruning.checkpoints", "pruning.removal"],
    "tensors": ["files"],
    "torch_backend": ["backends.torch.build", "backends.torch.fit"],
    "torch_description": ["backends.torch.describe"],
    "torch_masks": ["backends.torch.masks"],
    "torch_nodes": ["backends.torch.repair", "backends.torch.importance"],
    "torch_penalties": ["backends.torch.penalties"],
    "torch_recording": ["backends.torch.tracing"],
    "torch_stack": ["backends.torch.stack"],
    "torch_surgery": ["backends.torch.removal"],
    "train": ["training.fit", "models.build"],
    "training": ["training.loop", "training.recipe", "measure.statistics"],
    "validation": ["course.chapters.check"],
    "verification": ["course.chapters.verify"],
    "writeup": ["course.writeup"],
}
# Of modules whose name is a folder's now.
NAMES = {
    "course": {
        "CONFIGURATION": "course.labs.gradebook",
        "SETTINGS": "course.labs.gradebook",
        "Course": "course.labs.gradebook",
        "open_course": "course.labs.gradebook",
        "make_course": "course.labs.gradebook",
        "run": "course.labs.gradebook",
        "last_error": "course.labs.gradebook",
        "hash_of": "files",
    },
    "pruning": {
        "prunable": "pruning.prune",
        "apply_masks": "pruning.prune",
        "hold": "pruning.prune",
        "rewind": "pruning.iterative",
        "reinitialize": "pruning.iterative",
        "Level": "pruning.iterative",
        "iterative_prune": "pruning.iterative",
    },
    "training": {
        "OPTIMIZERS": "training.recipe",
        "Training": "training.recipe",
        "History": "training.recipe",
        "EarlyStopping": "training.loop",
        "Step": "training.loop",
        "plan": "training.loop",
        "batch_order": "training.loop",
        "check_data": "training.loop",
        "accuracy_and_loss": "measure.statistics",
    },
}


# Public names that are called otherwise now.
RENAMED = {"Found": "SearchResult", "snapshot": "get_weights"}


def sentence(name: str) -> str | None:
    """Where the old module is now, or how the old name is called; None for a name that was neither."""
    if name in RENAMED:
        return f"nnopt_lib.{name} is called nnopt_lib.{RENAMED[name]} now."
    if name not in MOVED:
        return None
    homes = [f"nnopt_lib.{home}" for home in MOVED[name]]
    many = f"{', '.join(homes[:-1])} and {homes[-1]}" if len(homes) > 1 else homes[0]
    return f"nnopt_lib.{name} has moved to {many}; book/moved.md says what is where."


class _Finder:
    """Asked last, for modules that nobody found."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        package, _, module = name.partition(".")
        words = sentence(module) if package == "nnopt_lib" else None
        if words:  # without the module's name, or `from nnopt_lib import store` would swallow the sentence
            raise ModuleNotFoundError(words)


def names_of(module: str) -> Callable[[str], NoReturn]:
    """``__getattr__`` of a folder that bears the name of an old module."""

    def refuse_name(name: str) -> NoReturn:
        if name in RENAMED:
            raise ImportError(sentence(name))
        if name in NAMES[module]:
            new = f"nnopt_lib.{NAMES[module][name]}"
            old = f"nnopt_lib.{module}.{name}"
            raise ImportError(f"{old} has moved to {new}; book/moved.md says what is where.")
        raise AttributeError(f"module 'nnopt_lib.{module}' has no attribute {name!r}")

    return refuse_name


sys.meta_path.append(_Finder)
