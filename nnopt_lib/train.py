"""The verbs of training: build a described network, move weights between frameworks, fit, evaluate.

Every function takes a `torch.nn.Module` or a Keras 3 model, made by `build` or the user's own. Inputs are
canonical everywhere: (examples, features) or (examples, channels, *spatial), for Keras models too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnopt_lib.checks import check_int, refuse
from nnopt_lib.frameworks import FRAMEWORKS, backend, backend_of, penalty_backend_of
from nnopt_lib.masks import Masks, check_match
from nnopt_lib.penalties import Penalty
from nnopt_lib.pruning import hold
from nnopt_lib.spec import NetSpec, initial_weights
from nnopt_lib.training import History, Training, accuracy_and_loss, check_data

if TYPE_CHECKING:
    from nnopt_lib.data import Data
    from nnopt_lib.torch_stack import Stack

__all__ = [
    "History",
    "Training",
    "build",
    "copy_weights",
    "evaluate",
    "fit",
    "fit_many",
    "get_weights",
    "predict",
    "runner",
    "seed_everything",
    "set_weights",
]


def build(spec: NetSpec, framework: str = "torch", *, seed: int = 0, init: str = "glorot_uniform") -> Any:
    """The network of a description, as an ordinary `torch.nn.Module` or functional Keras model.

    Parameters:
        spec: the description. A Keras model reads channels last, as Keras models do.
        framework: ``"torch"`` or ``"keras"``.
        seed: of the first weights; equal seeds give equal weights in both frameworks.
        init: one of `nnopt_lib.spec.INITIALIZERS`.

    Returns a new model on the CPU, that gives logits. Errors: unknown framework or init, one sentence.

    Example:
        >>> from nnopt_lib import mlp
        >>> build(mlp((32,), inputs=64, outputs=10)).dense_1
        Linear(in_features=64, out_features=32, bias=True)
    """
    adapter = backend(framework)
    return adapter.build(spec, initial_weights(spec, seed, init))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and those of PyTorch and Keras that are loaded already.

    A framework loaded later is seeded by `fit`, which calls this with its own seed.

    Example:
        >>> seed_everything(0)
        >>> random.randrange(100)
        49
    """
    import sys

    check_int("seed", seed, at_least=0, at_most=2**32 - 1)
    random.seed(seed)
    np.random.seed(seed)
    for framework in FRAMEWORKS:
        if framework in sys.modules:
            backend(framework).seed(seed)


# ---------------------------------------------------------------- weights


def get_weights(model: Any) -> dict[str, np.ndarray]:
    """Copies of a model's weights as ``{"dense_1/kernel": (out, in, *spatial), ...}``, float32.

    Running statistics of batch normalization are included, shared parameters come once.

    Example:
        >>> from nnopt_lib import mlp
        >>> get_weights(build(mlp((), inputs=64, outputs=10)))["dense_1/kernel"].shape
        (10, 64)
    """
    return backend_of(model).get_weights(model)


def set_weights(model: Any, weights: Mapping[str, np.ndarray]) -> None:
    """Write `weights` (canonical names and layout) into `model`; all of them or none.

    Example:
        >>> from nnopt_lib import mlp
        >>> model = build(mlp((), inputs=2, outputs=3))
        >>> set_weights(model, {name: 0 * value for name, value in get_weights(model).items()})
        >>> float(get_weights(model)["dense_1/kernel"].sum())
        0.0
    """
    adapter = backend_of(model)
    own = adapter.get_weights(model)
    if set(own) != set(weights):
        missing, foreign = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
        refuse("weights must have the model's names", f"missing {missing}, not the model's {foreign}")
    for name, value in own.items():
        if np.shape(weights[name]) != value.shape:
            refuse(f"weight {name!r} must have the shape {value.shape}", np.shape(weights[name]))
    adapter.set_weights(model, dict(weights))


def copy_weights(source: Any, target: Any) -> None:
    """Copy all weights from one model to another of equal structure, across frameworks if need be.

    Weights are matched by canonical name. Where names differ (a user's own models), the same number of
    weights of equal shapes in the same order is matched in order; anything else is refused, `target`
    untouched.

    Example:
        >>> from nnopt_lib import mlp
        >>> spec = mlp((), inputs=2, outputs=3)
        >>> source, target = build(spec, "torch", seed=1), build(spec, "keras", seed=2)
        >>> copy_weights(source, target)
        >>> bool((get_weights(target)["dense_1/kernel"] == get_weights(source)["dense_1/kernel"]).all())
        True
    """
    weights, names = get_weights(source), get_weights(target)
    if set(weights) != set(names):
        shapes = [[value.shape for value in each.values()] for each in (weights, names)]
        if shapes[0] != shapes[1]:
            refuse(
                "models must have weights of equal names, or of equal shapes in equal order",
                f"{_listed(weights)} against {_listed(names)}",
            )
        weights = dict(zip(names, weights.values(), strict=True))
    set_weights(target, weights)


def _listed(weights: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {value.shape}" for name, value in weights.items())


# ---------------------------------------------------------------- training and inference


def fit(
    model: Any,
    data: Data,
    training: Training,
    *,
    seed: int = 0,
    device: str = "auto",
    masks: Masks | None = None,
    penalty: Penalty | None = None,
) -> History:
    """Train `model` in place by `training` and return its `History`.

    Parameters:
        model: torch module or Keras model that gives logits, shape (batch, classes).
        data: `x_train` and `y_train` are trained on; validation data decides early stopping; the test
            set is not looked at.
        seed: of the order of batches and of every generator (dropout, ...).
        device: ``"auto"`` (CUDA, MPS, CPU), ``"cpu"``, ``"cuda"`` or ``"mps"``; the model stays there.
        masks: removed weights, held at 0 throughout (chapter 09).
        penalty: sparsifying regularization (chapter 08); validation losses are without it.

    Equal seeds visit equal batches in both frameworks and in `fit_many`. Errors, before training starts: no
    examples, early stopping without validation data, a device that is not there, nothing to train.

    Example:
        >>> from nnopt_lib import load_data, mlp
        >>> model, digits = build(mlp((32,), inputs=64, outputs=10)), load_data("digits")
        >>> fit(model, digits, Training(epochs=2), device="cpu")["epoch"]
        [1, 2]
    """
    check_data(data, training)
    adapter = backend_of(model)
    seed_everything(seed)

    def begin(optimizer: Any) -> Any:
        if masks is not None:
            hold(model, masks, optimizer)
        if penalty is None:
            return None
        return penalty_backend_of(model).regularizer(model, penalty, training, seed)

    return adapter.fit(model, data, training, seed, device, begin)


def fit_many(
    spec: NetSpec,
    data: Data,
    training: Training,
    *,
    seeds: Sequence[int],
    init: str = "glorot_uniform",
    weights: Sequence[Mapping[str, np.ndarray]] | None = None,
    masks: Sequence[Masks | None] | None = None,
    penalties: Sequence[Penalty] | None = None,
    device: str = "auto",
) -> Stack:
    """Train one network of `spec` per seed, all in one program (PyTorch); much faster for small networks.

    Parameters:
        seeds: of first weights and batch order, one per network; may repeat where weights or masks differ.
        weights: what each network starts from, instead of first weights drawn by its seed and `init`.
        masks: what each network is held to, None for a dense one.
        penalties: the regularization of each network; their strengths may differ, their kind may not.

    Each network's weights equal those of `fit` on its own, with the same seed, up to float32 rounding.
    Returns a `Stack`: `seeds`, `histories`, `weights(i)`, `predict`, `evaluate`. Mixed precision is not
    offered here. Chapters 02 and 10 use it; tests/benchmarks/fit_many.py measures it.

    Example:
        >>> from nnopt_lib import load_data, mlp
        >>> spec, digits = mlp((32,), inputs=64, outputs=10), load_data("digits")
        >>> stack = fit_many(spec, digits, Training(epochs=1), seeds=range(50), device="cpu")
        >>> len(stack.evaluate(digits.x_test, digits.y_test)), stack.weights(0)["dense_1/bias"].shape
        (50, (32,))
    """
    check_data(data, training)
    alike = weights is None and masks is None and penalties is None
    repeats = alike and len(set(seeds)) != len(seeds)
    if not seeds or repeats:
        refuse("seeds must be distinct, and at least one", list(seeds))
    starts: list[Mapping[str, np.ndarray]] = (
        [initial_weights(spec, seed, init) for seed in seeds] if weights is None else list(weights)
    )
    held: list[Masks | None] = [mask and mask.weights for mask in masks or [None] * len(seeds)]
    _check_networks(spec, len(seeds), starts, held)
    if penalties is not None and (
        len(penalties) != len(seeds) or len({(p.kind, p.mix) for p in penalties}) != 1
    ):
        kinds = ", ".join(sorted({p.kind for p in penalties})) or "none"
        refuse(f"penalties must be one per seed, {len(seeds)}, of one kind", f"{len(penalties)} of {kinds}")
    if training.mixed_precision:
        refuse("fit_many trains in float32", "mixed_precision=True", "Use fit, or leave it out.")
    from nnopt_lib.torch_stack import Stack

    stack = Stack(spec, seeds, starts, held, device)
    stack.fit(data, training, penalties)
    return stack


def _check_networks(
    spec: NetSpec, count: int, weights: list[Mapping[str, np.ndarray]], masks: list[Masks | None]
) -> None:
    """Refuse starting weights or masks that are not one per network, or do not fit the description."""
    for what, values in (("weights", weights), ("masks", masks)):
        if len(values) != count:
            refuse(f"{what} must be one per seed, {count}", len(values))
    shapes = spec.parameter_shapes(trainable=False)
    for own, mask in zip(weights, masks, strict=True):
        check_match(own, shapes, "weights")
        if mask is not None:
            check_match(mask, {name: shapes[name] for name in mask if name in shapes})


def predict(model: Any, x: np.ndarray, *, batch_size: int = 1024, device: str | None = None) -> np.ndarray:
    """Logits of `model` for `x`, float32, in inference mode; ``device=None`` stays where the model is.

    Example:
        >>> from nnopt_lib import mlp
        >>> predict(build(mlp((), inputs=2, outputs=3)), np.zeros((5, 2), np.float32)).shape
        (5, 3)
    """
    check_int("batch_size", batch_size, at_least=1)
    if len(x) == 0:
        refuse("predict needs at least one example", "none")
    return backend_of(model).predict(model, x, batch_size, device)


def evaluate(
    model: Any, x: np.ndarray, y: np.ndarray, *, batch_size: int = 1024, device: str | None = None
) -> dict[str, float]:
    """`accuracy` (a fraction) and mean cross-entropy `loss` (nats) of `model` on (x, y).

    Example:
        >>> from nnopt_lib import mlp
        >>> x, y = np.zeros((5, 2), np.float32), np.zeros(5, int)
        >>> sorted(evaluate(build(mlp((), inputs=2, outputs=3)), x, y))
        ['accuracy', 'loss']
    """
    accuracy, loss = accuracy_and_loss(predict(model, x, batch_size=batch_size, device=device), y)
    return {"accuracy": accuracy, "loss": loss}


def runner(model: Any, x: np.ndarray, *, device: str | None = None) -> Callable[[], Any]:
    """A function without arguments that runs `model` once on all of `x` in inference mode.

    For `nnopt_lib.measure.latency` and `peak_memory`: `x` is on the device already, and the function
    returns when the device is done. The model stays in evaluation mode. Keras runs as tf.function.

    Example:
        >>> from nnopt_lib import mlp
        >>> runner(build(mlp((), inputs=2, outputs=3)), np.zeros((5, 2), np.float32))().shape
        torch.Size([5, 3])
    """
    return backend_of(model).runner(model, x, device)
