"""Pruning Keras models: the masks of PyTorch, zeros under every optimizer in `fit` and in loops of one's own."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nnopt_lib as nnopt
from nnopt_lib.backends.keras import keras, tf  # loaded in its own way: see there
from nnopt_lib.checks import NnoptError
from tests.networks import CLASSICS, arrays, every_operation, networks

pytestmark = [pytest.mark.torch, pytest.mark.keras]

layers = keras.layers


# ---------------------------------------------------------------- models that nobody described


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = layers.Dense(7, "tanh"), layers.Dense(4)

    def call(self, x):
        return self.out(self.hidden(x))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 12), np.float32))
    return model


def sequential():
    """Every kernel has a shape of its own, so that optimizer state is recognized by its shape."""
    return keras.Sequential(
        [
            keras.Input((12,)),
            layers.Reshape((3, 2, 2)),
            layers.Conv2D(6, (2, 1), padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D((2, 2), depth_multiplier=2, padding="same"),
            layers.Conv2DTranspose(5, 2),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )


def functional():
    inputs = keras.Input((12,))
    hidden = layers.Dense(7, "tanh")(inputs)
    return keras.Model(inputs, layers.Dense(4)(layers.Concatenate()([hidden, inputs])))


def embedding():
    inputs = keras.Input((12,))
    words = layers.Embedding(9, 6)(
        layers.Lambda(lambda x: keras.ops.cast(keras.ops.minimum(abs(x), 8), "int32"))(inputs)
    )
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling1D()(words)))


MODELS = {
    "functional": functional,
    "sequential": sequential,
    "subclassed": subclassed,
    "embedding": embedding,
}
each_model = pytest.mark.parametrize("kind", MODELS)


def make(kind, seed=0):
    keras.utils.set_random_seed(seed)
    return MODELS[kind]()


def batches(count=16, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(0, 3, (count, 12)).astype(np.float32), random.integers(0, 4, count)


def kernels(model):
    """(variable, axes that bring it into canonical layout), in order."""
    axes_of = []
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Embedding):
            axes_of.append((layer.embeddings, (0, 1)))
        elif isinstance(layer, layers.DepthwiseConv2D):
            axes_of.append((layer.kernel, None))
        elif hasattr(layer, "kernel"):
            rank = len(layer.kernel.shape) - 2
            axes_of.append((layer.kernel, (rank + 1, rank, *range(rank))))
    order = {id(variable): index for index, variable in enumerate(model.weights)}
    return sorted(axes_of, key=lambda pair: order[id(pair[0])])


def canonical(value, axes):
    if axes is not None:
        return value.transpose(axes)
    height, width, inputs, multiplier = value.shape  # output c * multiplier + k reads input c alone
    out = [value[:, :, c, k] for c in range(inputs) for k in range(multiplier)]
    return np.stack(out)[:, None]


def assert_zeros(model, masks, optimizer=None):
    """What is removed is +0, in weights and, where an optimizer is given, in all its state."""
    variables = kernels(model)
    assert len(variables) == len(masks)
    for mask, (variable, axes) in zip(masks.values(), variables, strict=True):
        targets = [variable]
        if optimizer is not None:
            inner = getattr(optimizer, "inner_optimizer", optimizer)
            targets += [state for state in inner.variables if state.shape == variable.shape]
            assert len(targets) > 1
        for target in targets:
            gone = canonical(keras.ops.convert_to_numpy(target), axes)[~mask].astype(np.float64)
            assert (gone == 0).all() and (target is not variable or not np.signbit(gone).any())


# ---------------------------------------------------------------- which masks


@settings(max_examples=40, deadline=None)
@given(
    networks(),
    st.floats(0, 0.99),
    st.sampled_from([("global", "uniform"), ("layer", "uniform"), ("layer", "erk"), ("layer", "lamp")]),
    st.integers(0, 3),
)
def test_random_networks_get_the_same_masks_in_both_frameworks(spec, sparsity, rule, seed):
    models = [nnopt.build(spec, framework, seed=seed) for framework in ("torch", "keras")]
    options = dict(zip(("scope", "allocation"), rule, strict=True))
    in_torch, in_keras = (nnopt.prune(model, sparsity=sparsity / 2, **options) for model in models)
    assert in_torch == in_keras and list(in_torch) == list(in_keras) == nnopt.prunable(models[0])
    if rule[1] == "uniform":
        in_torch, in_keras = (
            nnopt.prune(model, sparsity=sparsity, previous=in_torch, **options) for model in models
        )
        assert in_torch == in_keras and list(in_torch) == list(in_keras)
    weights = [nnopt.get_weights(model) for model in models]
    assert all(np.array_equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize("spec", [every_operation(), *CLASSICS.values()], ids=["every operation", *CLASSICS])
@pytest.mark.parametrize("score", ["magnitude", "random"])
def test_described_networks_get_the_same_masks_with_many_ties(spec, score):
    models = [nnopt.build(spec, framework) for framework in ("torch", "keras")]
    coarse = {name: np.round(value * 4) / 4 for name, value in nnopt.get_weights(models[0]).items()}
    for model in models:
        nnopt.set_weights(model, coarse)
    in_torch, in_keras = (nnopt.prune(model, sparsity=0.63, score=score, seed=3) for model in models)
    assert in_torch == in_keras and in_torch.removed == round(0.63 * in_torch.size)
    assert any(0 < sparsity < 1 for sparsity in in_torch.sparsities().values())


def test_n_of_m_masks_are_the_same():
    spec = nnopt.cnn((8, 12), input_shape=(4, 9, 8), outputs=4)
    in_torch, in_keras = (
        nnopt.prune(nnopt.build(spec, framework), granularity="1:4") for framework in ("torch", "keras")
    )
    assert in_torch == in_keras and in_torch.sparsity == 0.75


def test_layers_of_a_users_own_get_the_masks_of_their_torch_twins():
    """Not square, grouped, depthwise with a multiplier, over time and space."""
    pairs = [
        (layers.Dense(7), (5,), torch.nn.Linear(5, 7)),
        (layers.Conv1D(6, 3, groups=2), (8, 4), torch.nn.Conv1d(4, 6, 3, groups=2)),
        (layers.Conv2D(6, (2, 3)), (6, 5, 4), torch.nn.Conv2d(4, 6, (2, 3))),
        (layers.Conv3D(3, (2, 3, 1)), (4, 5, 6, 2), torch.nn.Conv3d(2, 3, (2, 3, 1))),
        (
            layers.DepthwiseConv2D((2, 3), depth_multiplier=2),
            (6, 5, 3),
            torch.nn.Conv2d(3, 6, (2, 3), groups=3),
        ),
        (layers.Embedding(9, 4), (3,), torch.nn.Embedding(9, 4)),
    ]
    for layer, shape, twin in pairs:
        in_keras = keras.Sequential([keras.Input(shape), layer])
        nnopt.copy_weights(in_keras, twin)
        torch_masks, keras_masks = nnopt.prune(twin, sparsity=0.55), nnopt.prune(in_keras, sparsity=0.55)
        assert np.array_equal(*[next(iter(masks.values())) for masks in (torch_masks, keras_masks)]), layer
        weights = [next(iter(nnopt.get_weights(model).values())) for model in (twin, in_keras)]
        assert np.array_equal(*weights)
        assert_zeros(in_keras, keras_masks)


@each_model
def test_every_kernel_is_pruned_by_its_exact_count(kind):
    model = make(kind)
    values = [canonical(keras.ops.convert_to_numpy(v), axes) for v, axes in kernels(model)]
    masks = nnopt.prune(model, sparsity=0.9)
    assert [mask.shape for mask in masks.values()] == [value.shape for value in values]
    assert masks.removed == round(0.9 * sum(value.size for value in values))
    assert max(abs(v[~m]).max(initial=0) for v, m in zip(values, masks.values(), strict=True)) <= min(
        abs(v[m]).min(initial=np.inf) for v, m in zip(values, masks.values(), strict=True)
    )
    assert_zeros(model, masks)
    for (variable, axes), value, mask in zip(kernels(model), values, masks.values(), strict=True):
        assert np.array_equal(canonical(keras.ops.convert_to_numpy(variable), axes), np.where(mask, value, 0))


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "float64"])
def test_weights_of_other_types(policy):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((40,)), layers.Dense(30, dtype=policy), layers.Dense(5, dtype=policy)]
    )
    flat = np.concatenate(
        [abs(value).ravel() for n, value in nnopt.get_weights(model).items() if "kernel" in n]
    )
    order = np.lexsort((-np.arange(flat.size), flat))
    expected = np.ones(flat.size, bool)
    expected[order[: round(0.6 * flat.size)]] = False
    first = nnopt.get_weights(model)
    masks = nnopt.prune(model, sparsity=0.6)
    assert np.array_equal(np.concatenate([mask.ravel() for mask in masks.values()]), expected)
    assert_zeros(model, masks)
    nnopt.rewind(model, first)
    assert all(np.array_equal(value, first[name]) for name, value in nnopt.get_weights(model).items())
    assert {variable.dtype for variable in model.weights} == {policy}


def test_frozen_layers_are_left_alone_and_shared_ones_come_once():
    inputs, shared = keras.Input((6,)), layers.Dense(6, name="twice")
    frozen = layers.Dense(6, name="frozen", trainable=False)
    model = keras.Model(inputs, layers.Dense(3, name="last")(frozen(shared(shared(inputs)))))
    assert nnopt.prunable(model) == ["twice/kernel", "last/kernel"]
    before = keras.ops.convert_to_numpy(frozen.kernel)
    masks = nnopt.prune(model, sparsity=0.5)
    assert masks.size == 54 and np.array_equal(keras.ops.convert_to_numpy(frozen.kernel), before)


def test_models_within_models():
    inner = keras.Sequential(
        [keras.Input((12,)), layers.Dense(7, name="a"), layers.Dense(5, name="b")], name="inner"
    )
    model = keras.Sequential([keras.Input((12,)), inner, layers.Dense(4, name="c")])
    masks = nnopt.prune(model, sparsity=0.5)
    assert [mask.shape for mask in masks.values()] == [(7, 12), (5, 7), (4, 5)]
    assert_zeros(model, masks)


@pytest.mark.parametrize("kind", ["attention", "separable"])
def test_dense_and_convolution_kernels_of_compound_layers_are_prunable(kind):
    inputs = keras.Input((5, 8))
    if kind == "attention":
        out, count = layers.MultiHeadAttention(2, 4)(inputs, inputs), 4  # query, key, value, output
    else:
        out, count = layers.SeparableConv1D(6, 3)(inputs), 2  # depthwise, pointwise
    assert len(nnopt.prunable(keras.Model(inputs, out))) == count


# ---------------------------------------------------------------- holding

OPTIMIZERS = {
    "momentum": lambda **o: keras.optimizers.SGD(0.05, momentum=0.9, **o),
    "nesterov": lambda **o: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01, **o),
    "adam": lambda **o: keras.optimizers.Adam(0.01, amsgrad=True, **o),
    "adamw": lambda **o: keras.optimizers.AdamW(0.01, weight_decay=0.1, **o),
    "rmsprop": lambda **o: keras.optimizers.RMSprop(0.005, momentum=0.9, centered=True, **o),
}
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def fit(model, steps, check=lambda: None):
    """`steps` steps of Keras's own `fit`; `check` is called after each."""
    x, y = batches(8 * steps)
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: check())
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[watch])


def loop(model, optimizer, steps, check=lambda: None, jit=False, compiled=True):
    """A loop as a reader writes it."""
    x, y = map(tf.constant, batches())

    def step():
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    step = tf.function(step, jit_compile=jit) if compiled else step
    for _ in range(steps):
        step()
        check()


def compiled(kind, optimizer, jit=False, **options):
    model = make(kind)
    model.compile(OPTIMIZERS[optimizer](**options), LOSS, jit_compile=jit)
    return model


def mask_gradients(model):
    """Train with no gradient at zeros: then memory and decay alone could move them."""
    plain = model.optimizer.apply

    def apply(gradients, variables=None):
        return plain(
            [g * tf.cast(v.value != 0, g.dtype) for g, v in zip(gradients, variables, strict=True)], variables
        )

    model.optimizer.apply, model.train_function = apply, None


@each_optimizer
def test_zeros_are_lost_without_hold(optimizer):
    """Else the tests below would show nothing."""
    model = compiled("functional", optimizer)
    fit(model, 4)
    masks = nnopt.prune(model, sparsity=0.8)
    mask_gradients(model)
    fit(model, 4)
    with pytest.raises(AssertionError):
        assert_zeros(model, masks)


@pytest.mark.parametrize("way", ["fit", "fit, jit", "loop", "loop, jit"])
@each_optimizer
def test_zeros_stay_zero_over_200_steps(optimizer, way):
    model = compiled("functional", optimizer, jit="jit" in way)
    fit(model, 4)  # traced already, with state where weights are to be removed
    masks = nnopt.prune(model, sparsity=0.8)
    nnopt.hold(model, masks)
    assert_zeros(model, masks, model.optimizer)  # at once, not only after the next step
    before = [keras.ops.convert_to_numpy(variable) for variable, _ in kernels(model)]
    check = lambda: assert_zeros(model, masks, model.optimizer)
    if "fit" in way:
        fit(model, 200, check)
    else:
        loop(model, model.optimizer, 200, check, jit="jit" in way)
    for mask, old, (variable, axes) in zip(masks.values(), before, kernels(model), strict=True):
        moved = canonical(keras.ops.convert_to_numpy(variable) != old, axes)
        assert moved[mask].mean() > 0.5  # kept weights do learn


@each_model
@pytest.mark.parametrize("way", ["fit", "loop, jit", "eager loop"])
def test_zeros_stay_zero_in_every_kind_of_model(kind, way):
    model = compiled(kind, "adamw")
    masks = nnopt.prune(model, sparsity=0.7)
    nnopt.hold(model, masks)
    check = lambda: assert_zeros(model, masks, model.optimizer)
    if way == "fit":
        fit(model, 20, check)
    else:
        loop(model, model.optimizer, 10, check, jit="jit" in way, compiled="eager" not in way)


def test_zeros_stay_zero_in_train_on_batch_and_eager_fit():
    model = compiled("functional", "momentum")
    masks = nnopt.prune(model, sparsity=0.7)
    nnopt.hold(model, masks)
    for _ in range(5):
        model.train_on_batch(*batches())
        assert_zeros(model, masks, model.optimizer)
    model = make("functional")
    model.compile(OPTIMIZERS["momentum"](), LOSS, run_eagerly=True)
    masks = nnopt.prune(model, sparsity=0.7)
    nnopt.hold(model, masks)
    fit(model, 6, lambda: assert_zeros(model, masks, model.optimizer))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_zeros_stay_zero_with_accumulated_gradients(optimizer, jit):
    model = compiled("functional", optimizer, jit, gradient_accumulation_steps=4)
    fit(model, 6)
    masks = nnopt.prune(model, sparsity=0.8)
    nnopt.hold(model, masks)
    before = keras.ops.convert_to_numpy(kernels(model)[0][0])
    fit(model, 24, lambda: assert_zeros(model, masks))
    assert_zeros(model, masks, model.optimizer)
    assert (keras.ops.convert_to_numpy(kernels(model)[0][0]) != before).any()


@pytest.mark.parametrize("way", ["fit", "loop"])
def test_zeros_stay_zero_under_loss_scaling(way):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled("functional", "adamw")
        fit(model, 2)
        assert type(model.optimizer).__name__ == "LossScaleOptimizer"
        masks = nnopt.prune(model, sparsity=0.8)
        nnopt.hold(model, masks)
        before = keras.ops.convert_to_numpy(kernels(model)[0][0])
        check = lambda: assert_zeros(model, masks, model.optimizer)
        fit(model, 40, check) if way == "fit" else loop(model, model.optimizer, 40, check)
        assert (keras.ops.convert_to_numpy(kernels(model)[0][0]) != before).any()
    finally:
        keras.config.set_dtype_policy("float32")


class OtherPrecision(keras.optimizers.Optimizer):
    """Momentum kept in another precision than the weights."""

    def __init__(self, kind):
        super().__init__(0.05)
        self.kind = kind

    def build(self, variables):
        super().build(variables)
        self.memory = [self.add_variable(v.shape, initializer="zeros", dtype=self.kind) for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        memory = self.memory[self._get_variable_index(variable)]
        memory.assign(0.9 * memory + keras.ops.cast(gradient, self.kind))
        step = learning_rate * keras.ops.cast(memory, learning_rate.dtype)
        variable.assign_sub(keras.ops.cast(step, variable.dtype))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64"])
def test_state_of_any_precision_is_masked_where_the_weights_are_and_nowhere_else(kind):
    model, optimizer = make("functional"), OtherPrecision(kind)
    loop(model, optimizer, 3)
    memory = {id(v): m for v, m in zip(model.trainable_variables, optimizer.memory, strict=True)}
    held = [(memory[id(variable)], axes) for variable, axes in kernels(model)]
    read = lambda: [canonical(keras.ops.convert_to_numpy(value), axes) for value, axes in held]
    before = read()
    masks = nnopt.prune(model, sparsity=0.8)
    nnopt.hold(model, masks, optimizer)
    for mask, value, old in zip(masks.values(), read(), before, strict=True):
        assert np.array_equal(value, np.where(mask, old, 0)) and (old[~mask] != 0).any()
    loop(model, optimizer, 5, lambda: assert_zeros(model, masks, optimizer))
    assert {value.dtype for value, _ in held} == {kind} and all((value != 0).any() for value in read())


def test_zeros_stay_zero_when_moving_averages_replace_the_weights():
    model = compiled("functional", "momentum", use_ema=True, ema_overwrite_frequency=3)
    fit(model, 4)
    masks = nnopt.prune(model, sparsity=0.8)
    nnopt.hold(model, masks)
    fit(model, 10, lambda: assert_zeros(model, masks))
    assert_zeros(model, masks)  # the averages were written at the end, too


def test_an_optimizer_of_ones_own_is_named():
    model, optimizer = make("functional"), keras.optimizers.Adam(0.01)
    masks = nnopt.prune(model, sparsity=0.8)
    nnopt.hold(model, masks, optimizer)  # not built yet, the model never compiled
    loop(model, optimizer, 10, lambda: assert_zeros(model, masks, optimizer))


def test_remove_ends_it_and_holding_again_replaces():
    model = compiled("functional", "momentum")
    fit(model, 2)
    first = nnopt.prune(model, sparsity=0.5)
    second = nnopt.shuffle_masks(first, seed=0)
    nnopt.hold(model, first)
    fit(model, 4, lambda: assert_zeros(model, first, model.optimizer))
    handle = nnopt.hold(model, second)
    fit(model, 4, lambda: assert_zeros(model, second, model.optimizer))
    with pytest.raises(AssertionError):
        assert_zeros(model, first)  # what only the first removed has grown again
    handle.remove()
    assert_zeros(model, second)  # letting go changes nothing by itself
    fit(model, 4)
    with pytest.raises(AssertionError):
        assert_zeros(model, second)
    handle.remove()  # a second time, no harm


def test_removing_a_hold_that_was_replaced_leaves_the_newer_one():
    model = compiled("functional", "momentum")
    masks = nnopt.prune(model, sparsity=0.5)
    old = nnopt.hold(model, masks)
    nnopt.hold(model, masks)
    old.remove()
    fit(model, 4, lambda: assert_zeros(model, masks))


def test_nothing_of_a_hold_outlives_its_model():
    import gc
    import weakref

    model = compiled("functional", "momentum")
    nnopt.hold(model, nnopt.prune(model, sparsity=0.5))
    fit(model, 2)
    gone = weakref.ref(model.optimizer), weakref.ref(model)
    del model
    keras.backend.clear_session()
    gc.collect()
    assert [each() for each in gone] == [None, None]


# ---------------------------------------------------------------- an ordinary model, before, during and after


@pytest.mark.parametrize("stage", ["before", "during", "after"])
@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_saving_cloning_copying_and_exporting_give_the_same_outputs(kind, stage, tmp_path):
    model, (x, _) = compiled(kind, "adamw"), batches()
    fit(model, 2)
    names, classes = [v.path for v in model.weights], [type(layer) for layer in model.layers]
    if stage != "before":
        masks = nnopt.prune(model, sparsity=0.6)
        handle = nnopt.hold(model, masks)
        fit(model, 2)
        if stage == "after":
            handle.remove()
    assert [v.path for v in model.weights] == names and [type(layer) for layer in model.layers] == classes
    expected = model.predict(x, verbose=0)
    state = [keras.ops.convert_to_numpy(variable) for variable in model.optimizer.variables]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(x, training=False), expected, atol=1e-6)
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for value, variable in zip(state, loaded.optimizer.variables, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(variable), value)
    fit(loaded, 2)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(clone(x, training=False), expected, atol=1e-6)
    np.testing.assert_allclose(copy.deepcopy(model)(x, training=False), expected, atol=1e-6)
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(served.serve(tf.constant(x)).numpy(), expected, atol=1e-5)
    if stage == "during":
        fit(model, 4, lambda: assert_zeros(model, masks, model.optimizer))  # held still
        assert_zeros(clone, masks)
        with pytest.raises(AssertionError):
            assert_zeros(loaded, masks)  # the loaded one was trained without a hold


# ---------------------------------------------------------------- fit, rewinding, controls, levels

SPEC = nnopt.mlp((9, 5), inputs=12, outputs=4, activation="tanh")
RECIPES = {
    "momentum": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1},
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_fit_with_masks_equals_pytorch(recipe):
    models = [nnopt.build(SPEC, framework, seed=2) for framework in ("torch", "keras")]
    in_torch, in_keras = (nnopt.prune(model, sparsity=0.7) for model in models)
    training = nnopt.Training(epochs=3, batch_size=16, **recipe)
    for model in models:
        nnopt.fit(model, arrays(), training, seed=5, masks=in_torch, device="cpu")
    weights = [nnopt.get_weights(model) for model in models]
    for name, value in weights[0].items():
        np.testing.assert_allclose(weights[1][name], value, atol=1e-4, err_msg=name)
    for name, mask in in_keras.items():
        assert (weights[1][name][~mask] == 0).all() and (weights[1][name][mask] != 0).any()


@each_model
def test_rewinding_is_exact_to_the_bit(kind):
    model = compiled(kind, "momentum")
    fit(model, 2)
    variables = [v for v in model.weights if v.dtype == "float32"]
    read = lambda: [keras.ops.convert_to_numpy(v).tobytes() for v in variables]
    before, first = read(), nnopt.get_weights(model)
    fit(model, 4)
    assert read() != before
    nnopt.rewind(model, first)
    assert read() == before
    masks = nnopt.prune(model, sparsity=0.5)
    fit(model, 2)
    nnopt.rewind(model, first, masks)
    assert_zeros(model, masks)
    nnopt.rewind(model, first)
    assert read() == before


@pytest.mark.parametrize("kind", ["functional", "sequential", "subclassed"])
def test_reinitialize_draws_anew_from_the_layers_own_initializers(kind):
    model = make(kind)
    before = nnopt.get_weights(model)
    nnopt.reinitialize(model, seed=1)
    after = nnopt.get_weights(model)
    nnopt.reinitialize(model, seed=1)
    again = nnopt.get_weights(model)
    nnopt.reinitialize(model, seed=2)
    other = nnopt.get_weights(model)
    for name in nnopt.prunable(model):
        assert (before[name] != after[name]).mean() > 0.99 and (other[name] != after[name]).mean() > 0.99
        assert np.array_equal(after[name], again[name])
        assert abs(after[name]).max() <= 1.5 * abs(before[name]).max()
    assert all(not after[name].any() for name in after if name.endswith("/bias"))


def test_reinitialized_weights_have_the_spread_of_new_ones():
    model = keras.Sequential([keras.Input((200,)), layers.Dense(300, kernel_initializer="he_normal")])
    nnopt.reinitialize(model, seed=3)
    weights = nnopt.get_weights(model)[nnopt.prunable(model)[0]]
    assert weights.std() == pytest.approx(np.sqrt(2 / 200), rel=0.02) and abs(weights.mean()) < 0.002


def test_levels_nest_and_rewind():
    model = compiled("subclassed", "momentum")
    first = nnopt.get_weights(model)

    def train(model, masks):
        nnopt.hold(model, masks)
        fit(model, 4, lambda: assert_zeros(model, masks, model.optimizer))
        return nnopt.get_weights(model)

    targets = nnopt.schedules.exponential(0.7, 3)
    levels = list(nnopt.iterative_prune(model, train, targets, rewind_to=first))
    assert [level.masks.removed for level in levels] == [round(t * levels[0].masks.size) for t in targets]
    for before, after in zip(levels, levels[1:], strict=False):
        assert all(not (after.masks[name] & ~before.masks[name]).any() for name in after.masks)


# ---------------------------------------------------------------- refusals


def refusal(call):
    with pytest.raises(NnoptError) as error:
        call()
    return str(error.value)


def test_a_model_that_is_not_built_is_refused():
    model = keras.Sequential([layers.Dense(3)], name="mine")
    assert refusal(lambda: nnopt.prune(model, sparsity=0.5)) == (
        "a Keras model must be built before its weights are pruned; received 'mine'. "
        "Call it once on data, or give it an input shape."
    )


def test_a_model_with_nothing_to_prune_is_refused():
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])
    assert refusal(lambda: nnopt.prune(model, sparsity=0.5)) == (
        "a model to prune needs a trainable kernel of a dense, convolution or embedding layer; received none."
    )


def test_optimizers_that_do_not_train_the_model_are_refused():
    model = make("functional")
    masks = nnopt.prune(model, sparsity=0.5)
    sentence = refusal(lambda: nnopt.hold(model, masks))
    assert sentence == (
        "hold needs the Keras optimizer that trains the model; received NoneType. "
        "Pass it as the third argument, or compile the model first."
    )
    other = compiled("functional", "adam")
    fit(other, 2)
    assert refusal(lambda: nnopt.hold(model, masks, other.optimizer)) == (
        f"the optimizer must own the masked parameters; received one without {', '.join(masks)}. "
        "Build it with this model's trainable_variables."
    )
    torchs = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], 0.1)
    assert refusal(lambda: nnopt.hold(model, masks, torchs)).startswith(
        "hold needs the Keras optimizer that trains the model; received SGD."
    )


def test_masks_of_another_model_are_refused_with_names_and_shapes():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2, name="b")])
    model.compile("sgd", LOSS)
    masks = nnopt.Masks({"sequential/a/kernel": np.ones((4, 3), bool), "a/kernel": np.ones((4, 3), bool)})
    names = nnopt.prunable(model)
    for call in (
        lambda: nnopt.apply_masks(model, masks),
        lambda: nnopt.hold(model, masks),
        lambda: nnopt.rewind(model, nnopt.get_weights(model), masks),
    ):
        sentence = refusal(call)
        assert sentence.startswith("masks must have the names and shapes of the model's weights; received ")
        assert "a/kernel (4, 3) for " in sentence  # Keras's own layout, not the canonical (3, 4)
    assert "apply" not in vars(model.optimizer) and len(names) == 2


def test_bad_calls_change_nothing():
    model = make("sequential")
    before = [value.tobytes() for value in model.get_weights()]
    sentence = refusal(lambda: nnopt.prune(model, sparsity=80))
    assert sentence == "sparsity must be at least 0 and below 1; received 80. For 80 %, pass 0.8."
    refusal(lambda: nnopt.prune(model, granularity="2:4"))
    refusal(lambda: nnopt.prune(model, sparsity=0.5, names=["nobody/kernel"]))
    assert [value.tobytes() for value in model.get_weights()] == before
