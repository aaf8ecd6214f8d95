"""Keras models as people write them: what can leave leaves, what cannot is named, and nothing else changes."""

import numpy as np
import pytest

pytestmark = pytest.mark.keras

import keras  # noqa: E402
from keras import layers as L  # noqa: E402, N812
from keras import ops  # noqa: E402

import nnopt_lib as nnopt  # noqa: E402
from nnopt_lib.checks import NnoptError  # noqa: E402

IMAGE = (12, 12, 3)


def drawn(model, seed=0):
    """Weights that let signals through, and statistics that are not those of the start."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if not variable.dtype.startswith("float"):
            continue
        if len(variable.shape) > 1 and "bias" not in variable.name:
            size = np.prod(variable.shape[:-1]) / 2
            variable.assign(random.standard_normal(variable.shape) / np.sqrt(max(size, 1)))
        elif variable.name in ("gamma", "moving_variance", "variance"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        else:
            variable.assign(random.uniform(-0.3, 0.3, variable.shape))
    return model


def example(model, seed=1):
    random = np.random.default_rng(seed)

    def one(spec):
        shape = [4, *(size or 10 for size in spec.shape[1:])]
        if spec.dtype.startswith("int"):
            return random.integers(0, 7, shape).astype("int32")
        return random.standard_normal(shape).astype("float32")

    return keras.tree.map_structure(one, model.input if hasattr(model, "input") else model.inputs[0])


def outputs(model, x):
    given = model(x, training=False)
    return [keras.ops.convert_to_numpy(one).astype("float64") for one in keras.tree.flatten(given)]


def state(model):
    return [(v.path, v.trainable, keras.ops.convert_to_numpy(v).tobytes()) for v in model.variables]


def check(model, *, granularity="node", fold=False, removed=True, tolerance=1e-5, sparsity=0.5, x=None):
    """Removed equals masked; returns the smaller model and the masks."""
    x = example(model) if x is None else x
    options = {"sparsity": sparsity, "scope": "layer", "granularity": granularity, "seed": 1}
    masks = nnopt.prune(model, score="random", **options)
    before, expected = state(model), outputs(model, x)
    nodes = [len(layer._inbound_nodes) for layer in model._flatten_layers(include_self=False)]
    small = nnopt.remove_nodes(model, masks, fold=fold)
    assert state(model) == before
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers(include_self=False)] == nodes
    for one, other in zip(expected, outputs(small, x), strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= tolerance * np.abs(one).max()
    assert [v.path for v in small.weights][: len(model.weights)] == [v.path for v in model.weights] or fold
    assert (small.count_params() < model.count_params()) == removed
    return small, masks


def head(x):
    return L.Dense(4, name="head")(L.GlobalAveragePooling2D()(x) if len(x.shape) == 4 else x)


def sequential(*stack, shape=IMAGE):
    return drawn(keras.Sequential([keras.Input(shape), *stack]))


def conv(**options):
    return L.Conv2D(8, 3, padding="same", **options)


def tail():
    return [L.GlobalAveragePooling2D(), L.Dense(4, name="head")]


STACKS = {
    "softmax at the end": [conv(activation="relu"), L.GlobalAveragePooling2D(), L.Dense(4, activation="softmax")],
    "softmax layer at the end": [conv(activation="relu"), *tail(), L.Softmax()],
    "rescaled inputs": [L.Rescaling(1 / 255), conv(activation="relu"), *tail()],
    "normalized inputs": [L.Normalization(), conv(activation="relu"), *tail()],
    "augmented inputs": [L.RandomFlip(), L.RandomRotation(0.1), conv(), *tail()],
    "uneven padding": [conv(strides=2), conv(strides=3), L.MaxPooling2D(3, 2, padding="same"), *tail()],
    "uneven average": [conv(), L.AveragePooling2D(3, 2, padding="same"), conv(), *tail()],
    "norm without scale": [conv(), L.BatchNormalization(scale=False), L.ReLU(), *tail()],
    "norm without shift": [conv(), L.BatchNormalization(center=False), L.ReLU(), *tail()],
    "norm without either": [conv(), L.BatchNormalization(center=False, scale=False), L.ReLU(), *tail()],
    "padded, then pooled": [conv(activation="relu"), L.ZeroPadding2D(1), L.MaxPooling2D(3, 2), conv(), *tail()],
    "cropped and enlarged": [
        conv(), L.Cropping2D(1), L.UpSampling2D(2), L.UpSampling2D(2, interpolation="bilinear"), conv(), *tail()
    ],
    "clipped": [conv(), L.ReLU(6.0), conv(), L.LeakyReLU(), conv(), L.ELU(), *tail()],
    "prelu": [conv(), L.PReLU(), conv(), L.PReLU(shared_axes=[1, 2]), *tail()],
    "noise": [
        conv(), L.GaussianNoise(0.1), conv(), L.SpatialDropout2D(0.2), conv(), L.GaussianDropout(0.1), L.Dropout(0.2),
        *tail(),
    ],
    "separable": [conv(), L.SeparableConv2D(8, 3, activation="relu", depth_multiplier=2), *tail()],
    "depthwise": [conv(), L.DepthwiseConv2D(3, depth_multiplier=2), L.BatchNormalization(), L.ReLU(), *tail()],
    "in groups": [conv(activation="relu"), L.Conv2D(8, 3, groups=4, activation="relu"), *tail()],
    "transposed": [conv(), L.Conv2DTranspose(6, 3, strides=2, activation="relu"), conv(), *tail()],
    "dilated": [conv(activation="relu"), L.Conv2D(6, 3, dilation_rate=2, padding="same"), *tail()],
    "group norm": [conv(), L.GroupNormalization(4), L.ReLU(), conv(), L.GroupNormalization(-1), *tail()],
    "flat": [conv(activation="relu"), L.MaxPooling2D(4), L.Flatten(), L.Dense(9, activation="tanh"), L.Dense(4)],
    "pooled with axes kept": [conv(), L.GlobalMaxPooling2D(keepdims=True), L.Conv2D(6, 1), L.Flatten(), L.Dense(4)],
    "reshaped": [conv(activation="relu"), L.Reshape((144, 8)), L.Dense(6), L.Reshape((-1, 6)), L.Flatten(), L.Dense(4)],
    "permuted": [conv(activation="relu"), L.Permute((3, 1, 2)), L.Flatten(), L.Dense(4)],
    "channels shuffled": [
        conv(activation="relu"), L.Reshape((12, 12, 2, 4)), L.Permute((1, 2, 4, 3)), L.Reshape((12, 12, 8)), conv(), *tail()
    ],
    "repeated": [L.Flatten(), L.Dense(6, activation="relu"), L.RepeatVector(3), L.Dense(5), L.Flatten(), L.Dense(4)],
    "activations of layers": [conv(activation=L.LeakyReLU(0.2)), conv(activation=keras.activations.gelu), *tail()],
    "own subclass": [type("MyConv", (L.Conv2D,), {})(8, 3, activation="relu"), *tail()],
}  # fmt: skip


@pytest.mark.parametrize("name", STACKS)
def test_stacks_of_layers(name):
    model = sequential(*[layer.__class__.from_config(layer.get_config()) for layer in STACKS[name]])
    small, masks = check(model)
    assert type(small) is keras.Sequential and [one.name for one in small.layers] == [
        one.name for one in model.layers
    ]
    assert masks.removed


def _series(*stack):
    return sequential(*stack, shape=(16, 5))


SERIES = {
    "convolution": lambda: _series(L.Conv1D(8, 3, activation="relu"), L.MaxPooling1D(3), L.Flatten(), L.Dense(4)),
    "causal": lambda: _series(
        L.Conv1D(8, 3, padding="causal", activation="relu"), L.SeparableConv1D(6, 3), L.GlobalMaxPooling1D(), L.Dense(4)
    ),
    "lstm": lambda: _series(L.Conv1D(8, 3, activation="relu"), L.LSTM(5), L.Dense(4)),
    "gru": lambda: _series(L.Dense(8, activation="relu"), L.GRU(5, return_sequences=True), L.Dense(6), L.Dense(4)),
    "both ways": lambda: _series(L.Dense(8, activation="relu"), L.Bidirectional(L.LSTM(5)), L.Dense(4)),
    "volume": lambda: sequential(
        L.Conv3D(6, 2, activation="relu"), L.MaxPooling3D(2), L.Conv3DTranspose(5, 2), L.GlobalAveragePooling3D(),
        L.Dense(4), shape=(6, 6, 6, 2),
    ),
    "each step": lambda: sequential(
        L.TimeDistributed(L.Conv2D(6, 3, activation="relu")), L.TimeDistributed(L.MaxPooling2D(2)),
        L.TimeDistributed(L.Flatten()), L.TimeDistributed(L.Dense(7)), L.LSTM(4), L.Dense(3), shape=(4, 8, 8, 2),
    ),
    "each step, a network": lambda: sequential(
        L.TimeDistributed(keras.Sequential([keras.Input((8, 8, 2)), L.Conv2D(6, 3), L.GlobalAveragePooling2D()])),
        L.LSTM(4), L.Dense(3), shape=(4, 8, 8, 2),
    ),
    "einsum dense": lambda: _series(
        L.EinsumDense("abc,cd->abd", (16, 8), bias_axes="d", activation="relu"),
        L.EinsumDense("...x,xy->...y", 6), L.EinsumDense("abc,cde->abde", (16, 3, 4), bias_axes="de"),
        L.EinsumDense("abcd,cde->abe", (16, 5), bias_axes="e"), L.GlobalAveragePooling1D(), L.Dense(4),
    ),
    "masked steps": lambda: _series(L.Masking(), L.Dense(8), L.GRU(4), L.Dense(3)),
}  # fmt: skip


@pytest.mark.parametrize("name", SERIES)
def test_series_and_volumes(name):
    check(SERIES[name]())


def _residual(how):
    inputs = keras.Input(IMAGE)
    x = conv(activation="relu")(inputs)
    return drawn(keras.Model(inputs, head(how(x, conv()(x)))))


SUMS = {
    "+": lambda x, y: x + y,
    "*": lambda x, y: x * y,
    "-": lambda x, y: x - y,
    "numbers": lambda x, y: (2 * x - 0.0) / 3 + y * 0.5,
    "add": lambda x, y: L.Add()([x, y, x]),
    "average": lambda x, y: L.Average()([x, y]),
    "maximum": lambda x, y: ops.maximum(x, L.Minimum()([x, y])),
    "subtract": lambda x, y: L.Subtract()([x, y]),
    "concatenate": lambda x, y: ops.concatenate([x, y, x], axis=-1),
    "concatenate in space": lambda x, y: L.Concatenate(axis=1)([x, y]),
    "relu and mean": lambda x, y: ops.mean(ops.relu(x + y), axis=(1, 2)),
    "reshape and max": lambda x, y: ops.max(ops.reshape(x + y, (-1, 144, 8)), axis=1),
    "gate": lambda x, y: x * ops.sigmoid(L.Dense(8)(ops.mean(y, axis=(1, 2), keepdims=True))),
    "gate of a layer": lambda x, y: L.Multiply()(
        [x, L.Reshape((1, 1, 8))(L.Dense(8, "sigmoid")(L.Dense(3, "relu")(L.GlobalAveragePooling2D()(y))))]
    ),
    "transpose": lambda x, y: ops.transpose(ops.transpose(x, (0, 3, 1, 2)) + ops.moveaxis(y, -1, 1), (0, 2, 3, 1)),
    "halves": lambda x, y: ops.add(*ops.split(x + y, 2, axis=-1)),
    "slices": lambda x, y: x[..., :4] * y[..., 4:],
    "part": lambda x, y: x[..., 2:7] + 0 * y[..., 2:7],
    "stack": lambda x, y: ops.sum(ops.stack([x, y], axis=1), axis=1),
    "pad": lambda x, y: ops.pad(x + y, [(0, 0), (1, 2), (0, 1), (0, 0)]),
    "where": lambda x, y: ops.where(x > 0, x, y),
}  # fmt: skip


@pytest.mark.parametrize("name", SUMS)
def test_two_branches(name):
    check(_residual(SUMS[name]))


def test_sides_of_a_sum_leave_together():
    _, masks = check(_residual(SUMS["+"]))
    first, second = (value for key, value in masks.items() if key.startswith("conv"))
    assert (first == second).all() and not first.all()


def test_constants_behind_a_sigmoid_are_folded_into_what_reads_them():
    model = sequential(L.Dense(8, activation="sigmoid"), L.Dense(6, use_bias=False), L.Dense(4), shape=(5,))
    small, _ = check(model, fold=True)
    assert small.layers[1].use_bias
    masks = nnopt.prune(
        sequential(L.Dense(8, "sigmoid"), L.Dense(4), shape=(5,)), sparsity=0.5, granularity="node"
    )
    assert masks.removed


def test_nested_and_shared_layers_stay_nested_and_shared():
    inner = keras.Sequential([keras.Input((12, 12, 8)), conv(activation="relu", name="deep")], name="inner")
    backbone_in = keras.Input(IMAGE)
    backbone = keras.Model(backbone_in, inner(conv(name="first")(backbone_in)), name="backbone")
    a, b = keras.Input(IMAGE, name="a"), keras.Input(IMAGE, name="b")
    shared = L.Dense(6, activation="relu", name="shared")
    left, right = (shared(L.GlobalAveragePooling2D()(backbone(one))) for one in (a, b))
    model = drawn(keras.Model({"a": a, "b": b}, {"sum": L.Dense(3)(left + right), "left": L.Dense(2)(left)}))
    small, _ = check(model)
    assert isinstance(small.get_layer("backbone").get_layer("inner"), keras.Sequential)
    assert len(small.weights) == len(model.weights)
    assert small.get_layer("shared").kernel.shape[1] < 6


def test_a_frozen_backbone_stays_frozen_and_nothing_is_compiled():
    backbone = keras.Sequential([keras.Input(IMAGE), conv(name="c"), L.BatchNormalization()], name="backbone")
    backbone.trainable = False
    model = drawn(keras.Sequential([keras.Input(IMAGE), backbone, L.ReLU(), conv(), *tail()]))
    model.compile("sgd", "mse")
    small, _ = check(model)
    assert [v.trainable for v in small.weights] == [v.trainable for v in model.weights]
    assert model.compiled and not small.compiled
    small.compile("sgd", "mse")
    small.fit(example(model), np.zeros((4, 4)), verbose=0)


def test_what_feeds_a_layer_normalization_stays_whole_by_name():
    inputs = keras.Input((16, 5))
    x = L.Dense(8, name="into")(inputs)
    x = L.LayerNormalization(name="norm")(x)
    x = x + L.Dense(8, name="down")(L.Dense(16, activation="gelu", name="up")(x))
    model = drawn(keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(L.LayerNormalization()(x)))))
    _, masks = check(model)
    assert masks.whole["into"] == "normalized together with other channels by 'norm' (LayerNormalization)"
    assert not masks["up"].all() and "down" in masks.whole


class Doubled(L.Layer):
    """A layer of the user's own, without weights."""

    def call(self, x):
        return 2 * x


class Scaled(L.Layer):
    """One with a weight."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]), name="kernel")

    def call(self, x):
        return ops.matmul(x, self.kernel)


@pytest.mark.parametrize(
    "layer", [Doubled(name="mine"), Scaled(name="mine"), L.Lambda(lambda x: 2 * x, name="mine")]
)
def test_layers_that_nobody_knows_leave_what_they_read_whole_by_name(layer):
    inputs = keras.Input((6,))
    x = L.Dense(8, activation="relu", name="free")(inputs)
    x = layer(L.Dense(8, name="read")(x))
    model = drawn(keras.Model(inputs, L.Dense(3)(x)))
    _, masks = check(model)
    assert not masks["free"].all() and "read" not in masks
    assert masks.whole["read"] == f"read by 'mine' ({type(layer).__name__}), for which there is no rule"
    assert ("mine" in masks.whole) == isinstance(layer, Scaled)


class Swapped(L.Layer):
    """Moves its channels."""

    def call(self, x):
        return ops.flip(x, axis=-1)


class Lifted(L.Layer):
    """Makes something else of 0."""

    def call(self, x):
        return x + 1


def test_layers_that_were_taught(monkeypatch):
    from nnopt_lib.models.channels import TAUGHT, channel_rule

    for layer in (Doubled, Swapped, Lifted):
        monkeypatch.setitem(TAUGHT, layer, None)  # forgotten afterwards
    channel_rule(Doubled, "elementwise")
    channel_rule(Swapped, "moved")
    channel_rule(Lifted, "elementwise", at_zero=1.0)
    stack = [L.Dense(8), Doubled(), L.Dense(7), Swapped(), L.Dense(6), Lifted(), L.Dense(3)]
    _, masks = check(sequential(*stack, shape=(5,)), fold=True)
    assert len(masks) == 3


def test_activations_that_nobody_knows():
    model = sequential(L.Dense(8, activation=lambda x: x + 1, name="odd"), L.Dense(8), L.Dense(3), shape=(5,))
    _, masks = check(model)
    reason = masks.whole[f"{model.name}/odd"]
    assert reason == "read by the activation '<lambda>' of 'odd', for which there is no rule"


def _transformer(attention, **options):
    tokens = keras.Input((10,), dtype="int32")
    x = L.Embedding(7, 8, name="tokens")(tokens)
    x = x + L.Embedding(10, 8)(ops.arange(10))
    y = L.LayerNormalization()(x)
    x = x + attention(y, y, **options)
    y = L.LayerNormalization()(x)
    x = x + L.Dense(8)(L.Dense(20, activation="gelu", name="wide")(y))
    return drawn(keras.Model(tokens, L.Dense(7)(L.LayerNormalization()(x))))


@pytest.mark.parametrize(
    "attention",
    [
        lambda: L.MultiHeadAttention(4, 3, value_dim=2, name="attention"),
        lambda: L.MultiHeadAttention(4, 3, use_bias=False, name="attention"),
        lambda: L.GroupQueryAttention(3, 8, 4, name="attention"),
    ],
)
@pytest.mark.parametrize("causal", [False, True])
def test_heads_of_attention(attention, causal):
    model = _transformer(attention(), use_causal_mask=causal)
    small, masks = check(model, granularity="head")
    assert list(masks) == ["attention"] and masks["attention"].sum() == 2
    assert small.get_layer("attention").get_config()["dropout"] == 0.0
    _, masks = check(_transformer(attention(), use_causal_mask=causal))
    assert not masks["wide"].all() and "attention" not in masks


def test_attention_on_channels_that_can_leave():
    inputs = keras.Input((10, 5))
    x = L.Dense(8, activation="relu", name="into")(inputs)
    x = L.MultiHeadAttention(2, 3, name="attention")(x, x, x)
    model = drawn(keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x))))
    _, masks = check(model)
    assert not masks["into"].all() and not masks["attention/attention_output"].all()


@pytest.mark.parametrize(
    "mix",
    [
        lambda q, k, v: L.Attention()([q, v, k]),
        lambda q, k, v: ops.matmul(ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1)))), v),
        lambda q, k, v: ops.einsum("bts,bsd->btd", ops.softmax(ops.einsum("btd,bsd->bts", q, k)), v),
        lambda q, k, v: L.Dot(axes=(2, 1))([L.Softmax()(L.Dot(axes=2)([q, k])), v]),
        lambda q, k, v: ops.reshape(
            ops.dot_product_attention(*(ops.reshape(one, (-1, 10, 2, 4)) for one in (q, k, v))), (-1, 10, 8)
        ),
    ],
)
def test_attention_written_by_hand(mix):
    inputs = keras.Input((10, 5))
    q, k, v = (L.Dense(8, name=name)(inputs) for name in "qkv")
    x = L.Dense(6, activation="relu", name="behind")(mix(q, k, v))
    check(drawn(keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x)))))


def _functional(shape, body):
    inputs = keras.Input(shape)
    return drawn(keras.Model(inputs, body(inputs)))


def _unet(x):
    side = conv(activation="relu")(x)
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(12, 3, padding="same")(L.MaxPooling2D()(side))))
    x = L.Concatenate()([L.Conv2DTranspose(8, 2, strides=2)(x), side])
    return L.Conv2D(1, 1, activation="sigmoid")(conv()(x))


def _mixer(x):
    x = L.Dense(8)(x)
    y = L.Permute((2, 1))(L.LayerNormalization()(x))
    x = x + L.Permute((2, 1))(L.Dense(16)(L.Dense(12, activation="gelu", name="wide")(y)))
    return L.Dense(3)(L.GlobalAveragePooling1D()(x))


def _states(x):
    x = L.Dense(8)(x)
    out, hidden, cell = L.LSTM(4, return_state=True, return_sequences=True)(x)
    return [L.Dense(3)(L.LSTM(4)(L.Dense(7)(x), initial_state=[hidden, cell])), L.Dense(2)(out)]


def _two_of_one_name(x):
    def branch(name):
        inner = keras.Input(x.shape[1:])
        return keras.Model(inner, L.Dense(5, name="b")(L.Dense(8, "relu", name="a")(inner)), name=name)

    return L.Dense(3)(branch("left")(x) + branch("right")(x))


BODIES = {
    "u-net": (IMAGE, _unet),
    "mixer": ((16, 5), _mixer),
    "recurrent states": ((16, 5), _states),
    "layers of one name in two networks": ((6,), _two_of_one_name),
    "convolutional memory": (
        (3, 8, 8, 2),
        lambda x: head(conv()(L.ConvLSTM2D(4, 3)(L.TimeDistributed(L.Conv2D(6, 3))(x)))),
    ),
    "additive attention": (
        (16, 5),
        lambda x: L.Dense(3)(L.AdditiveAttention()([L.Dense(8)(x), L.Dense(8)(x)])),
    ),
    "blocks to channels": ((8, 8, 3), lambda x: head(conv()(ops.space_to_depth(conv()(x), 2)))),
    "channels to blocks": ((8, 8, 3), lambda x: head(conv()(ops.depth_to_space(conv()(x), 2)))),
    "spectral norm": (
        (6,),
        lambda x: L.Dense(3)(L.SpectralNormalization(L.Dense(8))(L.Dense(6)(L.Dense(7)(x)))),
    ),
    "dropout at all times": ((6,), lambda x: L.Dense(3)(L.Dense(8)(L.GaussianNoise(0.1)(L.Dense(8)(x))))),
    "standardized by hand": (
        (8, 8, 3),
        lambda x: head(
            conv()((lambda y: y / ops.sqrt(ops.var(y, axis=(1, 2), keepdims=True) + 1.0))(conv()(x)))
        ),
    ),
    "one reshape twice": (
        (6,),
        lambda x: (lambda shape: L.Dense(3)(L.Flatten()(shape(L.Dense(8)(x)) + shape(L.Dense(8)(x)))))(
            L.Reshape((2, 4))
        ),
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_networks(name):
    check(_functional(*BODIES[name]))


def test_text_keeps_its_vocabulary():
    vectors = L.TextVectorization(20, output_sequence_length=6)
    vectors.adapt(["a b c d", "e f g"])
    inputs = keras.Input((), dtype="string")
    x = L.Dense(6, activation="relu")(L.GlobalAveragePooling1D()(L.Embedding(20, 8)(vectors(inputs))))
    model = drawn(keras.Model(inputs, L.Dense(3)(x)))
    lines = np.array(["a b", "c d e", "g"])
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", example_input=lines)
    small = nnopt.remove_nodes(model, masks, example_input=lines)
    one, other = (np.asarray(net(ops.convert_to_tensor(lines))) for net in (model, small))
    assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max()
    with pytest.raises(NnoptError, match="a model that reads text needs an example_input"):
        nnopt.prune(model, sparsity=0.5, granularity="node")


def test_half_precision_is_compared_by_its_own_rounding():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = sequential(conv(activation="relu"), conv(activation="relu"), *tail())
    finally:
        keras.mixed_precision.set_global_policy("float32")
    small, _ = check(model, tolerance=1e-2)
    assert small.layers[0].dtype_policy.name == "mixed_float16"


class Net(keras.Model):
    """Subclassed, as tutorials write it."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = conv(activation="relu"), conv(), L.Dense(4)
        self.drop, self.pool = L.Dropout(0.3), L.GlobalAveragePooling2D()

    def call(self, x, training=False):
        x = self.first(x)
        x = self.drop(ops.relu(x + self.second(x)), training=training)
        return self.last(self.pool(x))


def test_a_subclassed_model_is_followed_through_its_call():
    model = Net()
    x = np.random.default_rng(0).standard_normal((4, *IMAGE), np.float32)
    model(x)
    small, masks = check(drawn(model), x=x)
    assert masks.removed and isinstance(small, keras.Model)


class Looking(keras.Model):
    """Its call looks at numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = L.Dense(8), L.Dense(4)

    def call(self, x):
        x = self.first(x)
        return self.last(x if float(ops.sum(x)) > 0 else -x)


class Block(L.Layer):
    """A residual block of the user's own, with layers inside."""

    def __init__(self, width, **options):
        super().__init__(**options)
        self.width = width
        self.up, self.norm, self.down = conv(), L.BatchNormalization(), L.Conv2D(width, 1)

    def call(self, x, training=None):
        return x + self.down(ops.relu(self.norm(self.up(x), training=training)))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def test_layers_of_the_users_own_that_call_layers_are_opened():
    inputs = keras.Input((None, None, 3))
    x = Block(6, name="second")(
        Block(6, name="first")(L.Conv2D(6, 1, activation="relu", name="stem")(inputs))
    )
    model = drawn(keras.Model(inputs, head(x)))
    small, masks = check(model, x=np.random.default_rng(0).standard_normal((2, 9, 10, 3), np.float32))
    assert len(masks) == 5 and list(masks.whole) == ["head"]
    assert small.get_layer("first").name == "first"


def test_smaller_models_are_saved_and_loaded_as_any_other(tmp_path):
    inner = keras.Sequential([keras.Input(IMAGE), conv(), L.BatchNormalization()], name="inner")
    inputs = keras.Input(IMAGE)
    x = ops.relu(inner(inputs))
    x = L.Reshape((144, 8))(ops.reshape(x, (-1, 12, 12, 8)))
    x = x + L.MultiHeadAttention(2, 3)(x, x)
    model = drawn(keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x))))
    small, _ = check(model)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    x = example(model)
    assert np.array_equal(outputs(small, x)[0], outputs(loaded, x)[0])


def test_a_norm_without_scale_is_held_by_its_mean_while_training():
    model = sequential(conv(), L.BatchNormalization(scale=False), L.ReLU(), conv(), *tail())
    model.compile("adam", "mse")
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", scope="layer")
    nnopt.hold(model, masks)
    x = example(model)
    model.fit(x, np.ones((4, 4)), epochs=3, verbose=0)
    small = nnopt.remove_nodes(model, masks)
    expected = outputs(model, x)[0]
    assert np.abs(expected - outputs(small, x)[0]).max() <= 1e-5 * np.abs(expected).max()


class Weighted(keras.Model):
    """With a weight beside its layers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = L.Dense(8), L.Dense(4)
        self.scale = self.add_weight(shape=(8,), name="scale", initializer="ones")

    def call(self, x):
        return self.last(self.first(x) * self.scale)


def test_a_model_with_weights_beside_its_layers_is_refused_by_name():
    model = Weighted()
    model(np.ones((2, 3), np.float32))
    with pytest.raises(NnoptError, match="Weighted; received one with weights beside its layers"):
        nnopt.prune(model, sparsity=0.5, granularity="node")


def test_a_call_that_cannot_be_followed_is_refused_by_name():
    model = Looking()
    model(np.ones((2, 3), np.float32))
    with pytest.raises(NnoptError, match="one whose call Keras can follow; Looking; received"):
        nnopt.prune(model, sparsity=0.5, granularity="node")


def test_sizes_that_are_open_and_dense_prediction():
    inputs = keras.Input((None, None, 3))
    down = conv(activation="relu")(inputs)
    x = conv(activation="relu", strides=2)(down)
    x = L.Concatenate()([L.UpSampling2D(2)(x), down])
    model = drawn(keras.Model(inputs, L.Conv2D(2, 1)(conv(activation="relu")(x))))
    check(model, x=np.random.default_rng(0).standard_normal((2, 16, 20, 3), np.float32))
