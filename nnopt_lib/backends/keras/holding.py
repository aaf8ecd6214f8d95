"""Holding zeros under any Keras optimizer, and under those that `compile` gives the model later.

Keras's optimizers have no hooks, so `apply` is shadowed on the optimizer objects, and `compile` on the model
object; their classes, their configurations and what is saved of them do not change.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nnopt_lib.backends.keras import keras, tf

Optimizer = keras.optimizers.Optimizer


def family(optimizer: Any) -> list[Any]:
    """The optimizer and those that it steps in its turn: under loss scaling, several as one."""
    members: list[Any] = []
    waiting = [optimizer]
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, Optimizer) and not any(value is member for member in members):
            members.append(value)
            waiting += vars(value).values()
        elif isinstance(value, (list, tuple)):
            waiting += [one for one in value if isinstance(one, Optimizer)]
        elif isinstance(value, Mapping):
            waiting += [one for one in value.values() if isinstance(one, Optimizer)]
    return members


def trained(members: Sequence[Any]) -> set[int]:
    """Identities of the variables that these built optimizers train."""
    return {id(variable) for member in members for variable in member._trainable_variables}


class _Zeros:
    """The constraint of a held variable: Keras applies it after every step of every optimizer.

    It keeps zeros under optimizers that nobody told us of, in whatever loop. The layer's configuration has
    constraints of its own, so that this one is neither saved nor copied.
    """

    def __init__(self, removed: tf.Tensor, earlier: Any) -> None:
        self.removed, self.earlier = removed, earlier

    def __call__(self, value: Any) -> Any:
        return _cleared(value if self.earlier is None else self.earlier(value), self.removed)


def _cleared(value: Any, removed: Any, to: float = 0.0) -> Any:
    """`value` with 0 where it is removed, whatever stands there, NaN too."""
    value = tf.convert_to_tensor(value)
    return tf.where(removed, tf.constant(to, value.dtype), value)


def fill(variable: Any, removed: Any, to: float = 0.0) -> None:
    """Write `to` where a variable is removed."""
    variable.assign(_cleared(variable.value, removed, to))


class Hold:
    """What `hold` returns: `remove` ends it. The weights stay as they are then, and may move again."""

    def __init__(self, model: Any, pairs: list[tuple[Any, np.ndarray]], optimizer: Any) -> None:
        self._model = weakref.ref(model)
        # Made once: as an array each use would put a copy of its own into the graph of a compiled step.
        self._pairs = [(variable, tf.constant(removed)) for variable, removed in pairs]
        self._ends: list[Callable[[], None]] = []
        for variable, removed in self._pairs:
            self._constrain(variable, removed)
        self._follow_compile(model)
        self.follow(optimizer)

    def remove(self) -> None:
        """Let go."""
        while self._ends:
            self._ends.pop()()
        self._trace_anew()

    def follow(self, optimizer: Any) -> None:
        """Mask gradients, weights and state at every step of this optimizer and of those inside."""
        for member in self._join(optimizer):
            self._mask(member)
        self._trace_anew()

    def _join(self, optimizer: Any) -> list[Any]:
        members = family(optimizer)
        for member in members:
            earlier = _held.get(member, lambda: None)()
            if earlier is not self:
                if earlier is not None:
                    earlier.remove()
                _held[member] = weakref.ref(self)
                self._shadow_apply(member)
        return members

    def _constrain(self, variable: Any, removed: tf.Tensor) -> None:
        earlier = variable.constraint
        if isinstance(earlier, _Zeros):  # of a hold that this one replaces
            earlier = earlier.earlier
        zeros = variable.constraint = _Zeros(removed, earlier)

        def end() -> None:
            if variable.constraint is zeros:
                variable.constraint = earlier

        self._ends.append(end)

    def _shadow_apply(self, optimizer: Any) -> None:
        removed = {optimizer._var_key(variable): gone for variable, gone in self._pairs}
        plain = optimizer.apply  # of its class, or what somebody else put there

        @functools.wraps(plain)
        def apply(grads: Any, trainable_variables: Any = None) -> Any:
            variables = optimizer._trainable_variables if trainable_variables is None else trainable_variables
            if not optimizer.built:
                optimizer.build(list(variables))
            self._join(optimizer)  # a MultiOptimizer made by a function knows those inside once it is built
            keys = [optimizer._var_key(variable) for variable in variables]
            # Clipping by norms, Muon, Adafactor and Lamb read all of a layer's gradients together.
            grads = [_masked(one, removed.get(key)) for one, key in zip(grads, keys, strict=True)]
            result = plain(grads, trainable_variables)
            self._mask(optimizer)
            return result

        self._ends.append(_shadow(optimizer, "apply", apply))
        if isinstance(optimizer, keras.optimizers.Adafactor):
            self._ends.append(_shadow(optimizer, "_rms", _without_nan(optimizer._rms)))

    def _follow_compile(self, model: Any) -> None:
        """`compile` makes a new optimizer, of which nobody tells us."""
        if "compile" in vars(model):  # of an earlier hold
            del vars(model)["compile"]
        plain = model.compile

        @functools.wraps(plain)
        def compile(*args: Any, **kwargs: Any) -> Any:
            result = plain(*args, **kwargs)
            if isinstance(getattr(model, "optimizer", None), Optimizer):
                self.follow(model.optimizer)
            return result

        self._ends.append(_shadow(model, "compile", compile))

    def _mask(self, optimizer: Any) -> None:
        """Weights, and what the optimizer remembers of each, as if it had never moved."""
        for variable, removed in self._pairs:
            fill(variable, removed)
            for state, start in _state(optimizer, variable):
                fill(state, removed, start)

    def _trace_anew(self) -> None:
        """Let `fit` compile its step again: the one that it keeps was traced with another `apply`.

        A new function, not None: a callback may have asked, in the middle of `fit`, which calls it next.
        """
        model = self._model()
        if model is not None and model.train_function:
            model.make_train_function(force=True)


def _shadow(owner: Any, name: str, function: Callable[..., Any]) -> Callable[[], None]:
    """Put `function` in the place of a method of this object alone; gives the way back.

    By `__dict__`: Keras tracks and saves what is set on models and optimizers as attributes.
    """
    replaced = vars(owner).get(name)
    vars(owner)[name] = function

    def end() -> None:
        if vars(owner).get(name) is function:
            del vars(owner)[name]
            if replaced is not None:
                vars(owner)[name] = replaced

    return end


def _masked(gradient: Any, removed: tf.Tensor | None) -> Any:
    """The gradient with 0 where the weight is removed, NaN too, as if the weight were not there."""
    if gradient is None or removed is None:
        return gradient
    if isinstance(gradient, tf.IndexedSlices):  # of an embedding: rows, in any order, some of them twice
        values = _cleared(gradient.values, tf.gather(removed, gradient.indices))
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return _cleared(gradient, removed)


def _without_nan(rms: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Of Adafactor: where a whole row and a whole column are removed its step is 0 / 0, which one mean over
    the kernel would spread to kept weights."""
    return lambda step: rms(tf.where(tf.math.is_nan(step), tf.zeros_like(step), step))


def _state(optimizer: Any, variable: Any) -> Iterator[tuple[Any, float]]:
    """The optimizer's variables that hold one number for each weight of `variable`, and where these begin."""
    variables = optimizer._trainable_variables
    index = next((index for index, other in enumerate(variables) if other is variable), None)
    if index is None:  # another optimizer's, or frozen
        return
    # Keras has no name for an optimizer's state: each kind keeps lists beside that of its variables, in the
    # same order, as `_momentums` and `_velocities`.
    for name, values in vars(optimizer).items():
        if (
            isinstance(values, (list, tuple))
            and len(values) == len(variables)
            and all(values is not other for other in (variables, optimizer._variables))
        ):
            state = values[index]
            if isinstance(state, keras.Variable) and state is not variable and state.shape == variable.shape:
                # Adagrad's and Ftrl's sums begin above 0, and Ftrl divides by them.
                yield state, getattr(optimizer, "initial_accumulator_value", 0.0) * (name == "_accumulators")


# Which hold is at work on an optimizer; weak, so that an optimizer that nobody uses takes its hold along.
_held: weakref.WeakKeyDictionary[Any, weakref.ref[Hold]] = weakref.WeakKeyDictionary()
