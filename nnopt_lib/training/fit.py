"""The verbs of training: fit, evaluate, predict.

Every function takes a `torch.nn.Module` or a Keras 3 model, made by `build` or the user's own. Inputs are
canonical everywhere: (examples, features) or (examples, channels, *spatial), for Keras models too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nnopt_lib.adapters import Stack
from nnopt_lib.checks import check_int, refuse
from nnopt_lib.compression.quantization import Quantization
from nnopt_lib.compression.quantized_models import straight_through
from nnopt_lib.compression.sharing import Shared, check_sharing
from nnopt_lib.frameworks import (
    FRAMEWORKS,
    penalty_backend_of,
    sharing_backend_of,
    stacks,
    training_backend,
    training_backend_of,
)
from nnopt_lib.measure.statistics import accuracy_and_loss
from nnopt_lib.pruning.masks import Masks
from nnopt_lib.pruning.penalties import Penalty
from nnopt_lib.pruning.prune import hold
from nnopt_lib.structure.spec import NetSpec
from nnopt_lib.structure.weights import check_match, initial_weights
from nnopt_lib.training.distillation import Distillation, lesson
from nnopt_lib.training.loop import check_data, train
from nnopt_lib.training.recipe import History, Training

if TYPE_CHECKING:
    from nnopt_lib.data import Data


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
        if framework in sys.modules:  # loading one only to seed it would take seconds
            training_backend(framework).seed(seed)


def fit(
    model: Any,
    data: Data,
    training: Training,
    *,
    seed: int = 0,
    device: str = "auto",
    masks: Masks | None = None,
    penalty: Penalty | None = None,
    distillation: Distillation | None = None,
    sharing: Mapping[str, Shared] | None = None,
    quantization: Quantization | None = None,
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
        distillation: a teacher to learn from (chapter 18); validation losses are without it.
        sharing: what `share_weights` gave for this model: weights of one value stay equal, to the last bit,
            and move by the sum of their gradients (Han et al. 2016, section 3); what it removed stays 0.
        quantization: the grids that kernels are trained for, straight through their rounding (chapter 18);
            afterwards, and in validation, the weights lie on them. The masks' zeros stay zeros.

    Equal seeds visit equal batches in both frameworks and in `fit_many`. Errors, before training starts: no
    examples, early stopping without validation data, a device that is not there, nothing to train, gates
    or sharing together with quantization.

    Example:
        >>> from nnopt_lib import build, load_data, mlp
        >>> model, digits = build(mlp((32,), inputs=64, outputs=10)), load_data("digits")
        >>> fit(model, digits, Training(epochs=2), device="cpu")["epoch"]
        [1, 2]
    """
    check_data(data, training)
    other = "sharing" if sharing is not None else "penalty='l0'" if penalty and penalty.kind == "l0" else ""
    if other and quantization is not None:
        rule = "quantization puts weights of its own into the forward pass, as gates and sharing do"
        refuse(rule, f"quantization and {other}", "Leave one out.")
    adapter = training_backend_of(model)
    # Before seeding: whatever a teacher draws, the student's training is not moved by it.
    taught = None if distillation is None else lesson(distillation, data)
    seed_everything(seed)
    # In this order: hold and penalty need the optimizer's state, and weights that are on the device.
    optimizer = adapter.optimizer_for(model, data.x_train[:1], training, device)
    shared = None if sharing is None else check_sharing(model, sharing, masks)
    objective = None if taught is None else taught.objective(model, data, training, seed, optimizer)
    held = None if masks is None else hold(model, masks, optimizer)
    try:
        regularizers = []
        if penalty is not None:
            regularizers.append(penalty_backend_of(model).regularizer(model, penalty, training, seed))
        if shared is not None:
            regularizers.append(sharing_backend_of(model).regularizer(model, shared))
        if quantization is not None:  # last: a penalty's threshold acts on the float weights
            regularizers.append(straight_through(model, quantization))
        learner = adapter.learner(model, data, training, optimizer, regularizers, device, objective)
        return train(learner, [data], training, [seed])[0]
    finally:
        if held is not None:  # a Keras model would stay held under the next optimizer, too
            held.remove()


def fit_many(
    spec: NetSpec,
    data: Data | Sequence[Data],
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
        data: what all networks are trained on, or a list of one set for each, of equal sizes, where a seed
            is to draw the split or the sample of the data, too.
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
    sets: list[Data] = list(data) if isinstance(data, (list, tuple)) else [cast("Data", data)]
    for each in sets:
        check_data(each, training)
    _check_sets(sets, len(seeds))
    # A seed may come twice where something else tells the networks apart, as in a comparison of masks.
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
    stack = stacks().Stack(spec, seeds, starts, held, device)
    learner = stacks().learner(stack, sets, training, penalties)
    stack.histories = train(learner, sets, training, stack.seeds)
    return cast(Stack, stack)


def _check_sets(sets: Sequence[Data], networks: int) -> None:
    """Refuse data sets that are neither one for all networks nor one for each, of equal sizes."""
    if len(sets) == 1:
        return
    if len(sets) != networks:
        refuse(f"data must be one set, or a list of one for each of {networks} networks", len(sets))
    shapes = {(each.x_train.shape, each.x_validation.shape) for each in sets}
    if len(shapes) > 1:
        received = " and ".join(sorted(f"{train} to train on" for train, _ in shapes))
        refuse("data sets of one stack must have equal sizes and shapes", received)


def _check_networks(
    spec: NetSpec, count: int, weights: list[Mapping[str, np.ndarray]], masks: list[Masks | None]
) -> None:
    """Refuse starting weights or masks that are not one per network, or do not fit the description."""
    for what, values in (("weights", weights), ("masks", masks)):
        if len(values) != count:
            refuse(f"{what} must be one per seed, {count}", len(values))
    shapes = spec.parameter_shapes(trainable=False)
    for network_weights, mask in zip(weights, masks, strict=True):
        check_match(network_weights, shapes, "weights")
        if mask is not None:  # a mask may name some of the kernels; the others are dense
            check_match(mask, {name: shapes[name] for name in mask if name in shapes})


def predict(model: Any, x: np.ndarray, *, batch_size: int = 1024, device: str | None = None) -> np.ndarray:
    """Logits of `model` for `x`, float32, in inference mode; ``device=None`` stays where the model is.

    Example:
        >>> from nnopt_lib import build, mlp
        >>> predict(build(mlp((), inputs=2, outputs=3)), np.zeros((5, 2), np.float32)).shape
        (5, 3)
    """
    check_int("batch_size", batch_size, at_least=1)
    if len(x) == 0:
        refuse("predict needs at least one example", "none")
    return training_backend_of(model).predict(model, x, batch_size, device)


def evaluate(
    model: Any, x: np.ndarray, y: np.ndarray, *, batch_size: int = 1024, device: str | None = None
) -> dict[str, float]:
    """`accuracy` (a fraction) and mean cross-entropy `loss` (nats) of `model` on (x, y).

    Example:
        >>> from nnopt_lib import build, mlp
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
        >>> from nnopt_lib import build, mlp
        >>> runner(build(mlp((), inputs=2, outputs=3)), np.zeros((5, 2), np.float32))().shape
        torch.Size([5, 3])
    """
    return training_backend_of(model).runner(model, x, device)
