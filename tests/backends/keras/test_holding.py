"""Held models train as networks whose kernels are multiplied by the mask: every optimizer of Keras, every loop."""

import inspect

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.backends.keras.holding import family, trained

pytestmark = pytest.mark.keras

layers, ops, optimizers = keras.layers, keras.ops, keras.optimizers


# ---------------------------------------------------------------- a network whose kernels are multiplied by masks


class MaskedDense(layers.Dense):
    mask = None

    def call(self, x):
        return self.activation(x @ (self.kernel * ops.cast(self.mask, x.dtype)) + self.bias)


class MaskedConvolution(layers.Conv2D):
    mask = None

    def call(self, x):
        return ops.conv(x, self.kernel * ops.cast(self.mask, x.dtype), padding="same") + self.bias


def network(dense=layers.Dense, convolution=layers.Conv2D):
    """No two kernels of one shape, nor one of the shape of another's rows or columns."""
    inputs = keras.Input((12,))
    hidden = convolution(5, (2, 1), padding="same")(layers.Reshape((3, 2, 2))(inputs))
    hidden = dense(7, "tanh")(layers.Flatten()(hidden))
    return keras.Model(inputs, dense(4)(hidden))


def kernel_layers(model):
    return [layer for layer in model.layers if hasattr(layer, "kernel")]


def in_keras_layout(masks):
    return [mask.transpose((*range(2, mask.ndim), 1, 0)) for mask in masks.values()]


def pair(sparsity=0.7):
    """A pruned model, its masks, and a twin that multiplies."""
    keras.utils.set_random_seed(1)
    model, twin = network(), network(MaskedDense, MaskedConvolution)
    masks = nnopt.prune(model, sparsity=sparsity)
    twin.set_weights(model.get_weights())
    for layer, mask in zip(kernel_layers(twin), in_keras_layout(masks), strict=True):
        layer.mask = mask.astype("float32")
    return model, masks, twin


def assert_zeros(model, masks):
    for layer, mask in zip(kernel_layers(model), in_keras_layout(masks), strict=True):
        gone = np.asarray(layer.kernel)[~mask]
        assert (gone == 0).all() and not np.signbit(gone).any()


def assert_alike(model, twin, tolerance=1e-4):
    masks = {id(layer.kernel): layer.mask for layer in kernel_layers(twin)}
    for one, other in zip(model.weights, twin.weights, strict=True):
        # What the twin multiplies by 0 may move, by Muon for one: it is of no account.
        one, other = np.asarray(one), np.asarray(other) * masks.get(id(other), 1)
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------- all optimizers of Keras

SIMPLE = {
    "Adadelta": lambda **o: optimizers.Adadelta(1.0, **o),
    "Adafactor": lambda **o: optimizers.Adafactor(0.05, **o),
    "Adagrad": lambda **o: optimizers.Adagrad(0.05, **o),
    "Adam": lambda **o: optimizers.Adam(0.01, amsgrad=True, **o),
    "AdamW": lambda **o: optimizers.AdamW(0.01, **o),
    "Adamax": lambda **o: optimizers.Adamax(0.01, **o),
    "Ftrl": lambda **o: optimizers.Ftrl(0.05, l2_shrinkage_regularization_strength=0.01, **o),
    "Lamb": lambda **o: optimizers.Lamb(0.01, **o),
    "Lion": lambda **o: optimizers.Lion(0.001, **o),
    "Muon": lambda **o: optimizers.Muon(0.01, **o),
    "Nadam": lambda **o: optimizers.Nadam(0.01, **o),
    "RMSprop": lambda **o: optimizers.RMSprop(0.005, momentum=0.9, centered=True, **o),
    "SGD": lambda **o: optimizers.SGD(0.05, momentum=0.9, nesterov=True, **o),
    "ScheduleFreeAdamW": lambda **o: optimizers.ScheduleFreeAdamW(0.01, **o),
}


def several(**options):
    """Muon for the first dense kernel, SGD for the rest: neither has a list for all variables."""
    both = SIMPLE["SGD"](**options), SIMPLE["Muon"](**options)
    return optimizers.MultiOptimizer(lambda variable: both[tuple(variable.shape) == (30, 7)])


OPTIMIZERS = {
    **SIMPLE,
    "LossScaleOptimizer": lambda **o: optimizers.LossScaleOptimizer(SIMPLE["Adam"](**o), initial_scale=128.0),
    "MultiOptimizer": several,
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
CLIPPED = {"global_clipnorm": 0.1, "weight_decay": 0.05}
ACCUMULATED = {"gradient_accumulation_steps": 3, "clipnorm": 0.05}
AVERAGED = {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 7}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def test_these_are_all_optimizers_that_keras_has():
    kinds = {
        n
        for n, kind in vars(optimizers).items()
        if inspect.isclass(kind) and issubclass(kind, optimizers.Optimizer)
    }
    assert set(OPTIMIZERS) == kinds - {"Optimizer"}


def batches(steps, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(0, 2, (8 * steps, 12)).astype(np.float32), random.integers(0, 4, 8 * steps)


def compile_and_build(model, optimizer):
    """At once: where `fit` builds it, ScheduleFreeAdamW begins from 0 and not from the weights (Keras 3.15)."""
    model.compile(optimizer, LOSS)
    model.optimizer.build(model.trainable_variables)


def by_fit(model, steps=40, seed=0):
    x, y = batches(steps, seed)
    model.fit(x, y, batch_size=8, verbose=0, shuffle=False)


def by_loop(model, optimizer=None, steps=40, compiled=True, seed=0):
    """As a reader writes it; ends as `fit` does."""
    optimizer = optimizer or model.optimizer

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = optimizer.scale_loss(LOSS(y, model(x, training=True)))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    step = tf.function(step) if compiled else step
    x, y = batches(steps, seed)
    for first in range(0, len(x), 8):
        step(tf.constant(x[first : first + 8]), tf.constant(y[first : first + 8]))
    optimizer.finalize_variable_values(model.trainable_variables)


@pytest.mark.parametrize(
    ("way", "options"), [(by_fit, CLIPPED), (by_loop, {**ACCUMULATED, **AVERAGED})], ids=["fit", "loop"]
)
@each_optimizer
def test_held_models_train_as_networks_whose_kernels_are_multiplied(name, way, options):
    model, masks, twin = pair()
    start = model.get_weights()
    for one in (model, twin):
        compile_and_build(one, OPTIMIZERS[name](**options))
    nnopt.hold(model, masks)
    way(model)
    way(twin)
    assert_zeros(model, masks)
    assert_alike(model, twin)
    for layer, mask, old in zip(kernel_layers(model), in_keras_layout(masks), start[::2], strict=True):
        assert (np.asarray(layer.kernel) != old)[mask].mean() > 0.9


@each_optimizer
def test_held_models_train_so_in_mixed_precision(name):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, masks, twin = pair()
        for one in (model, twin):
            compile_and_build(one, OPTIMIZERS[name](clipnorm=0.1))
        nnopt.hold(model, masks)
        by_fit(model, 20)
        by_fit(twin, 20)
        assert type(model.optimizer) is optimizers.LossScaleOptimizer
        assert_zeros(model, masks)
        assert_alike(model, twin, 1e-2 if name == "Muon" else 2e-3)
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("name", ["SGD", "Muon"])
def test_gradients_of_removed_weights_would_count_without_hold(name):
    """Else the tests above would show little."""
    model, masks, twin = pair()
    for one, held in ((model, True), (twin, False)):
        one.compile(OPTIMIZERS[name](global_clipnorm=0.1), LOSS)
        if held:
            nnopt.hold(one, masks)
        variables = one.trainable_variables
        one.optimizer.apply([tf.ones(v.shape) for v in variables], variables)
    kept = [mask.astype(bool) for mask in in_keras_layout(masks)]
    kernels = [[np.asarray(layer.kernel) for layer in kernel_layers(one)] for one in (model, twin)]
    moved = [abs(a - b)[mask].max() for a, b, mask in zip(*kernels, kept, strict=True)]
    assert max(moved) > 2e-4


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
def test_gradients_that_are_rows_of_an_embedding(sparse, compiled):
    """Words come twice in a batch; clipping each kernel by its norm."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((12,), dtype="int32"), layers.Embedding(9, 6), layers.Flatten(), layers.Dense(4)]
    )
    name = nnopt.prunable(model)[0]
    masks = nnopt.prune(model, sparsity=0.6, names=[name])
    table = model.layers[0].embeddings
    optimizer, mask = optimizers.SGD(0.1, momentum=0.9, clipnorm=0.05), masks[name]
    nnopt.hold(model, masks, optimizer)
    words = np.random.default_rng(0).integers(0, 5, (8, 12)).astype(np.int32)  # of some none
    expected, memory = np.asarray(table).copy(), np.zeros((9, 6), np.float32)

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x))
        gradients = tape.gradient(loss, model.trainable_variables)
        assert isinstance(gradients[0], tf.IndexedSlices)
        dense = tf.convert_to_tensor(gradients[0])
        if not sparse:
            gradients[0] = dense
        optimizer.apply(gradients, model.trainable_variables)
        return dense, gradients[0].values if sparse else dense

    step = tf.function(step) if compiled else step
    for _ in range(10):
        dense, values = step(tf.constant(words), tf.constant(np.arange(8) % 4))
        dense = np.where(mask, dense, 0)
        # What Keras clips by is the norm of the rows as they come.
        rows = np.where(mask[words.ravel()], values, 0) if sparse else dense
        dense = dense * min(1, 0.05 / np.linalg.norm(rows))
        memory = 0.9 * memory - 0.1 * dense
        expected += memory
        np.testing.assert_allclose(np.asarray(table), expected, atol=1e-6)
        assert (np.asarray(table)[~mask] == 0).all()


def test_a_gradient_that_is_no_number_does_not_reach_kept_weights():
    for name in ("SGD", "LossScaleOptimizer"):
        model, masks, _ = pair()
        optimizer = OPTIMIZERS[name](global_clipnorm=1.0) if name == "SGD" else OPTIMIZERS[name]()
        nnopt.hold(model, masks, optimizer)
        before = model.get_weights()
        gradients = [np.ones(v.shape, np.float32) for v in model.trainable_variables]
        gradients[2][~in_keras_layout(masks)[1]] = np.nan
        optimizer.apply([tf.constant(g) for g in gradients], model.trainable_variables)
        assert_zeros(model, masks)
        assert all(np.isfinite(value).all() for value in model.get_weights())
        assert (model.get_weights()[1] != before[1]).all()  # a step was taken


# ---------------------------------------------------------------- what an optimizer remembers


def states(model, kernel):
    """All variables of the optimizer, and of those inside, that have this kernel's shape."""
    return [v for v in model.optimizer.variables if tuple(v.shape) == tuple(kernel.shape)]


@each_optimizer
def test_a_hold_in_the_middle_forgets_what_removed_weights_were(name):
    keras.utils.set_random_seed(0)
    model = network()
    model.compile(OPTIMIZERS[name](**ACCUMULATED, **AVERAGED), LOSS)
    by_fit(model, 8)
    masks = nnopt.prune(model, sparsity=0.7)
    before = [[np.asarray(s) for s in states(model, layer.kernel)] for layer in kernel_layers(model)]
    nnopt.hold(model, masks)
    for steps in (0, 5):
        if steps:
            by_fit(model, steps)
        assert_zeros(model, masks)
        for layer, mask, old in zip(kernel_layers(model), in_keras_layout(masks), before, strict=True):
            kept = states(model, layer.kernel)
            assert len(kept) == len(old) >= 3
            for state, value in zip(kept, old, strict=True):
                if name == "Adafactor" and "velocity" in state.path and steps:
                    continue  # made anew at each step of its rows and columns
                # The sums of Adagrad and Ftrl begin at 0.1, and division by 0 would not be a number.
                start = (
                    0.1
                    if name in ("Adagrad", "Ftrl")
                    and state.path.endswith("accumulator")
                    and "gradient" not in state.path
                    else 0
                )
                gone = np.asarray(state)[~mask]
                assert (gone == np.float32(start)).all(), state.path
                assert steps or np.array_equal(np.asarray(state)[mask], value[mask])


@pytest.mark.parametrize("name", ["Ftrl", "Adagrad", "Adadelta", "ScheduleFreeAdamW"])
def test_weights_that_are_let_go_learn_again(name):
    model, masks, _ = pair()
    model.compile(OPTIMIZERS[name](), LOSS)
    handle = nnopt.hold(model, masks)
    by_fit(model, 5)
    handle.remove()
    x, y = batches(5)
    x[:, 3] = 0  # so that some gradients are 0
    model.fit(x, y, batch_size=8, verbose=0)
    values = [np.asarray(layer.kernel) for layer in kernel_layers(model)]
    assert all(np.isfinite(value).all() for value in values)
    assert (values[1][~in_keras_layout(masks)[1]] != 0).mean() > 0.9


def test_a_family_is_all_that_steps_once():
    inner = optimizers.SGD(0.1), optimizers.Adam(0.1)
    several = optimizers.MultiOptimizer(optimizers.OptimizerMap(inner[0], {"a": inner[1], "b": inner[1]}))
    outer = optimizers.LossScaleOptimizer(several)
    assert [id(one) for one in family(outer)] == [id(one) for one in (outer, several, inner[1], inner[0])]
    assert family(inner[0]) == [inner[0]]
    model = network()
    outer.build(model.trainable_variables)
    assert trained(family(outer)) == {id(v) for v in model.trainable_variables}


# ---------------------------------------------------------------- optimizers that come later


def twice_compiled(first="SGD", second="Adam", **options):
    """Held, trained, compiled again."""
    model, masks, twin = pair()
    for one in (model, twin):
        compile_and_build(one, OPTIMIZERS[first]())
    handle = nnopt.hold(model, masks)
    for one in (model, twin):
        by_fit(one, 5)
        compile_and_build(one, OPTIMIZERS[second](**options))
    return model, masks, twin, handle


@pytest.mark.parametrize("way", [by_fit, by_loop])
@pytest.mark.parametrize("second", ["Adam", "Muon", "MultiOptimizer", "LossScaleOptimizer"])
def test_compiled_again_it_is_held_as_before(second, way):
    model, masks, twin, _ = twice_compiled(second=second, **CLIPPED, **AVERAGED)
    way(model, steps=20)
    way(twin, steps=20)
    assert_zeros(model, masks)
    assert_alike(model, twin)


@pytest.mark.parametrize("how", [{"steps_per_execution": 3}, {"run_eagerly": True}, {"jit_compile": True}])
def test_compiled_again_in_another_way(how):
    model, masks, twin = pair()
    for one in (model, twin):
        compile_and_build(one, OPTIMIZERS["Adam"](global_clipnorm=0.1))
    nnopt.hold(model, masks)
    for one in (model, twin):
        one.compile(one.optimizer, LOSS, **how)
        by_fit(one, 9)
    assert_zeros(model, masks)
    assert_alike(model, twin)


@pytest.mark.parametrize("built", [True, False])
def test_under_a_strategy_of_tensorflow(built):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model, masks, _ = pair()
        model.compile(OPTIMIZERS["Adam"](global_clipnorm=0.1), LOSS)
        if built:
            model.optimizer.build(model.trainable_variables)
    nnopt.hold(model, masks)
    before = model.get_weights()
    by_fit(model, 5)
    assert_zeros(model, masks)
    assert (model.get_weights()[-1] != before[-1]).all()


def test_compiled_again_before_it_was_ever_trained_and_twice_with_one_optimizer():
    model, masks, twin = pair()
    model.compile("adam", LOSS)
    nnopt.hold(model, masks)
    optimizer = optimizers.SGD(0.05, momentum=0.9, global_clipnorm=0.1)
    for _ in range(2):
        model.compile(optimizer, LOSS)
    compile_and_build(twin, optimizers.SGD(0.05, momentum=0.9, global_clipnorm=0.1))
    for one in (model, twin):
        by_fit(one, 5)
        one.compile(one.optimizer, LOSS)
        by_fit(one, 5)
    assert_zeros(model, masks)
    assert_alike(model, twin)


def test_compiled_with_a_part_frozen_and_without_an_optimizer():
    model, masks, _ = pair()
    model.compile("adam", LOSS)
    nnopt.hold(model, masks)
    model.layers[2].trainable = False
    model.compile(optimizers.SGD(0.05, momentum=0.9), LOSS)
    frozen = np.asarray(model.layers[2].kernel)
    by_fit(model, 5)
    assert_zeros(model, masks)
    assert np.array_equal(np.asarray(model.layers[2].kernel), frozen)
    model.layers[2].trainable = True
    model.compile(None, LOSS)
    model.compile(optimizers.Adam(0.01, use_ema=True), LOSS)
    by_fit(model, 5)
    assert_zeros(model, masks)
    assert (np.asarray(model.layers[2].kernel) != frozen).any()


@pytest.mark.parametrize("name", ["SGD", "Ftrl", "Muon", "MultiOptimizer", "LossScaleOptimizer"])
def test_zeros_stay_under_optimizers_that_nobody_told_of(name):
    model, masks, _ = pair()
    model.compile("adam", LOSS)
    nnopt.hold(model, masks)
    before = model.get_weights()
    for compiled in (True, False):
        optimizer = OPTIMIZERS[name](weight_decay=0.01)
        optimizer.build(model.trainable_variables)
        by_loop(model, optimizer, steps=3, compiled=compiled)
        assert_zeros(model, masks)
    assert all((one != old).any() for one, old in zip(model.get_weights(), before, strict=True))
    model.optimizer = OPTIMIZERS[name]()
    model.train_function = None
    by_fit(model, 3)
    assert_zeros(model, masks)


def test_a_constraint_of_the_layer_goes_on_and_comes_back():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((12,)), layers.Dense(4, kernel_constraint=keras.constraints.UnitNorm())]
    )
    model.compile(optimizers.SGD(0.1), LOSS)
    kernel, constraint = model.layers[0].kernel, model.layers[0].kernel.constraint
    masks = nnopt.prune(model, sparsity=0.5)
    assert constraint is not None
    for _ in range(2):  # the second takes the place of the first
        handle = nnopt.hold(model, masks)
    by_fit(model, 5)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(kernel), axis=0), 1, atol=1e-5)
    assert (np.asarray(kernel)[~next(iter(masks.values())).T] == 0).all()
    handle.remove()
    assert kernel.constraint is constraint


def test_letting_go_leaves_model_and_optimizers_as_they_were():
    model, masks, _, handle = twice_compiled(second="MultiOptimizer")
    second = nnopt.hold(model, masks, optimizers.SGD(0.1))
    third = nnopt.hold(model, masks)
    for one in (handle, second, third, third):
        one.remove()
    assert "compile" not in vars(model) and not any("apply" in vars(one) for one in family(model.optimizer))
    assert all(variable.constraint is None for variable in model.variables)
    by_fit(model, 3)
    with pytest.raises(AssertionError):
        assert_zeros(model, masks)
    model.compile("adam", LOSS)
    assert "apply" not in vars(model.optimizer)


def test_masks_that_take_the_place_of_others_after_compile():
    model, first, _, _ = twice_compiled()
    second = nnopt.shuffle_masks(first, seed=0)
    nnopt.hold(model, second)
    by_fit(model, 5)
    assert_zeros(model, second)
    with pytest.raises(AssertionError):
        assert_zeros(model, first)
    model.compile("sgd", LOSS)
    by_fit(model, 5)
    assert_zeros(model, second)


def test_an_apply_that_somebody_else_put_there_goes_on():
    model, masks, _ = pair()
    model.compile("adam", LOSS)
    plain, calls = model.optimizer.apply, []
    theirs = lambda *args: (calls.append(1), plain(*args))[1]
    vars(model.optimizer)["apply"] = theirs
    handle = nnopt.hold(model, masks)
    model.train_on_batch(*batches(1))
    assert calls
    handle.remove()
    assert vars(model.optimizer)["apply"] is theirs


def test_training_by_the_library_lets_go_at_its_end():
    from tests.networks import arrays

    model = nnopt.build(nnopt.mlp((9,), inputs=12, outputs=4), "keras")
    masks, recipe = nnopt.prune(model, sparsity=0.7), nnopt.Training(epochs=1, batch_size=16)
    nnopt.fit(model, arrays(), recipe, masks=masks, device="cpu")
    assert all((nnopt.get_weights(model)[name][~mask] == 0).all() for name, mask in masks.items())
    nnopt.fit(model, arrays(), recipe, device="cpu")
    assert all((nnopt.get_weights(model)[name][~mask] != 0).any() for name, mask in masks.items())


# ---------------------------------------------------------------- saved and loaded in the middle


@pytest.mark.parametrize("name", ["SGD", "Adam", "Muon", "LossScaleOptimizer"])
def test_training_goes_on_where_it_stopped(name, tmp_path):
    options = {**AVERAGED, "global_clipnorm": 0.1}
    model, masks, twin = pair()
    for one in (model, twin):
        compile_and_build(one, OPTIMIZERS[name](**options))
    nnopt.hold(model, masks)
    for one in (model, twin):
        by_fit(one, 10)
    model.save(tmp_path / "model.keras")
    masks.save(tmp_path / "masks")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert not any("apply" in vars(one) for one in family(loaded.optimizer))  # nothing of it was saved
    nnopt.hold(loaded, nnopt.Masks.load(tmp_path / "masks"))
    for one in (model, loaded, twin):
        by_fit(one, 10, seed=1)
    assert_zeros(loaded, masks)
    assert_alike(loaded, twin)
    assert_alike(model, twin)


# ---------------------------------------------------------------- rows and columns without a weight


@pytest.mark.parametrize("name", ["Adafactor", "Ftrl", "Lamb", "Muon", "MultiOptimizer"])
def test_kernels_of_which_whole_rows_and_columns_are_removed(name):
    """Adafactor's step is 0 / 0 there, and one mean over the kernel would make all of it no number."""
    model, _, _ = pair(0.0)
    keep = [np.ones(shape, bool) for shape in ((5, 2, 2, 1), (7, 30), (4, 7))]
    for mask in keep:
        mask[:2], mask[:, 1] = False, False
    masks = nnopt.Masks(dict(zip(nnopt.prunable(model), keep, strict=True)))
    model.compile(OPTIMIZERS[name](clipnorm=1.0), LOSS)
    nnopt.hold(model, masks)
    start = model.get_weights()
    by_fit(model, 30)
    assert_zeros(model, masks)
    assert all(np.isfinite(value).all() for value in model.get_weights())
    moved = [
        (one != old)[mask]
        for one, old, mask in zip(model.get_weights()[::2], start[::2], in_keras_layout(masks), strict=True)
    ]
    assert min(one.mean() for one in moved) > 0.5
