"""One small member of each family of keras.applications, as shipped: half of its nodes removed for real."""

import numpy as np
import pytest

pytestmark = pytest.mark.keras

import keras  # noqa: E402

import nnopt_lib as nnopt  # noqa: E402

SMALLEST = {  # the side of the smallest image that it reads
    **dict.fromkeys(
        ("MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0"), 32
    ),
    **dict.fromkeys(("DenseNet121", "ResNet50", "ResNet50V2", "VGG16", "NASNetMobile", "ConvNeXtTiny"), 32),
    **dict.fromkeys(("InceptionV3", "InceptionResNetV2"), 75),
    "Xception": 71,
}


def network(name):
    """With kernels large enough for signals to come through, and statistics of the images that it is run on."""
    side = SMALLEST[name]
    model = getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3))
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (4, 1, 1, 3)) * random.uniform(0, 1, (4, side, side, 1))
    for variable in model.weights:
        if len(variable.shape) > 1:
            inputs = np.prod(variable.shape[: -2 if "depthwise" in variable.path else -1])
            variable.assign(random.standard_normal(variable.shape, np.float32) * np.sqrt(2 / inputs))
        elif variable.name in ("bias", "beta"):
            variable.assign(random.uniform(-0.1, 0.1, variable.shape))
        elif variable.name not in ("mean", "variance", "count", "seed_generator_state"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    last = next(variable for variable in reversed(model.weights) if len(variable.shape) > 1)
    last.assign(last * 0.1)  # a softmax that is not certain
    norms = [one for one in model._flatten_layers() if isinstance(one, keras.layers.BatchNormalization)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(images.astype(np.float32), training=True)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return model, images.astype(np.float32)


@pytest.mark.parametrize("name", SMALLEST)
def test_half_of_the_nodes_removed_equal_half_of_them_masked(name):
    model, images = network(name)
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", scope="layer")
    small = nnopt.remove_nodes(model, masks)
    masked, removed = (np.asarray(one(images)) for one in (model, small))
    assert np.abs(masked - masked[:1]).max() > 1e-3 * np.abs(masked).max()  # signals come through
    assert np.abs(masked - removed).max() <= 1e-5 * np.abs(masked).max()
    assert small.count_params() < 0.75 * model.count_params()
    assert [one.name for one in small.layers] == [one.name for one in model.layers]
    last = model.weights[-1].path.rpartition("/")[0]
    assert masks.whole[last].startswith("read by the activation 'softmax'")
    spared = [reason for layer, reason in masks.whole.items() if layer != last]
    assert bool(spared) == (
        name == "ConvNeXtTiny"
    )  # all that its residual stream joins is normalized by position
    assert any("normalized together with other channels" in reason for reason in spared) == bool(spared)
