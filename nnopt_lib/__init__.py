"""Structure optimization and pruning of neural networks, in PyTorch and Keras: the course's library.

Public names are listed here and loaded on first use, so that ``import nnopt_lib`` loads neither framework.
``data``, ``measure``, ``figures``, ``penalties``, ``scores`` and ``schedules`` are used as modules.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# TensorFlow, if it is loaded after this, keeps its start-up banners off stderr, where notebooks would store
# them. Whoever wants to see them sets the variable beforehand.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__version__ = "0.1.0"

_HOME = {
    "checks": ["NnoptError"],
    "data": ["Data", "load_data"],
    "spec": ["NetSpec", "Node"],
    "builders": ["mlp", "cnn", "lenet_300_100", "lenet_5", "mnist1d_mlp", "mnist1d_cnn"],
    "families": ["vgg", "inception", "resnet", "densenet", "senet", "vit"],
    "budgets": ["Budget", "at_budget"],
    "edits": ["deepen", "connect"],
    "replication": ["widen"],
    "shrinking": ["shrink"],
    "experiment": ["run_experiment"],
    "claims": ["claim", "replay"],
    "found": ["Found"],
    "searching": ["SearchSpace", "search"],
    "masks": ["Masks", "make_masks", "shuffle_masks"],
    "nodes": ["NodeMasks"],
    "coupling": ["couple"],
    "description": ["describe"],
    "calibration": ["importance", "recalibrate_batchnorm", "reconstruct"],
    "surgery": ["remove_nodes", "save_small", "load_small"],
    "penalties": ["Penalty"],
    "pruning": [
        "prunable",
        "prune",
        "apply_masks",
        "hold",
        "snapshot",
        "rewind",
        "reinitialize",
        "iterative_prune",
    ],
    "train": [
        "Training",
        "History",
        "build",
        "get_weights",
        "set_weights",
        "copy_weights",
        "seed_everything",
        "fit",
        "fit_many",
        "evaluate",
        "predict",
        "runner",
    ],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
_MODULES = ["data", "measure", "figures", "penalties", "schedules", "scores"]

__all__ = [*_MODULE_OF, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
