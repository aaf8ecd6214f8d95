"""Structure optimization and pruning of neural networks, in PyTorch and Keras: the course's library.

Public names are listed here and loaded on first use, so that ``import nnopt_lib`` loads neither framework.
``data``, ``measure``, ``formats``, ``compression``, ``figures``, ``penalties``, ``scores``, ``schedules`` and
``labs`` are used as modules.
Editors and type checkers read them in ``__init__.pyi``.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from nnopt_lib._moved import sentence

# TensorFlow, if it is loaded after this, keeps its start-up banners off stderr, where notebooks would store
# them. Whoever wants to see them sets the variable beforehand.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__version__ = "0.1.0"

_HOME = {
    "checks": ["NnoptError"],
    "data": ["Data", "load_data"],
    "structure.spec": ["NetSpec", "Node"],
    "structure.classics": ["mlp", "cnn", "lenet_300_100", "lenet_5", "mnist1d_mlp", "mnist1d_cnn"],
    "structure.families": ["vgg", "inception", "resnet", "densenet", "senet", "vit"],
    "structure.edits.deepen": ["deepen"],
    "structure.edits.connect": ["connect"],
    "structure.edits.widen": ["widen"],
    "structure.edits.shrink": ["shrink"],
    "structure.edits.factorize": ["factorize"],
    "structure.edits.fold": ["fold_batchnorm"],
    "structure.coupling": ["couple"],
    "models.describe": ["describe"],
    "models.channels": ["channel_rule"],
    "models.build": ["build", "get_weights", "set_weights", "copy_weights"],
    "training.recipe": ["Training", "History"],
    "training.distillation": ["Distillation", "distillation_loss"],
    "training.fit": ["seed_everything", "fit", "fit_many", "evaluate", "predict", "runner"],
    "pruning.masks": ["Masks", "make_masks", "shuffle_masks"],
    "pruning.node_masks": ["NodeMasks"],
    "pruning.importance": ["importance"],
    "pruning.saliency": ["saliency"],
    "training.movement": ["movement"],
    "pruning.repair": ["recalibrate_batchnorm", "reconstruct"],
    "pruning.removal": ["remove_nodes"],
    "pruning.checkpoints": ["save_small", "load_small"],
    "pruning.penalties": ["Penalty"],
    "pruning.prune": ["prunable", "prune", "apply_masks", "hold"],
    "pruning.second_order": ["OneShotMasks", "prune_one_shot"],
    "pruning.iterative": ["rewind", "reinitialize", "iterative_prune"],
    "nas.budgets": ["Budget", "at_budget"],
    "nas.result": ["SearchResult"],
    "nas.search": ["SearchSpace", "search"],
    "experiments.run": ["run_experiment", "published_rows"],
    "results.claims": ["claim", "replay", "verdicts"],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
_MODULES = {
    "measure": "measure",
    "formats": "formats",
    "compression": "compression",
    "scores": "pruning.scores",
    "schedules": "pruning.schedules",
    "penalties": "pruning.penalties",
    "figures": "results.figures",
    "labs": "course.labs.student",
    "data": "data",
}

__all__ = [*_MODULE_OF, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(sentence(name) or f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
