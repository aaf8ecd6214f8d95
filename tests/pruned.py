"""Models to remove nodes from, and what it means that two models give the same; for the tests of nodes."""

import numpy as np
from hypothesis import HealthCheck, settings

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError

X = np.random.default_rng(0).standard_normal((4, 3, 16, 16), np.float32)


some_graphs = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def close(a, b):
    return np.abs(a - b).max() <= 1e-5 * max(1, np.abs(a).max())


def randomized(spec, framework, seed):
    """A model whose biases, scales and running statistics are not what they are at first."""
    random, model = np.random.default_rng(seed), nnopt.build(spec, framework, seed=seed)
    weights = nnopt.get_weights(model)
    for name, value in weights.items():
        low, high = (0.5, 1.5) if name.endswith(("scale", "variance")) else (-0.3, 0.3)
        weights[name] = value * ("kernel" in name) + random.uniform(low, high, value.shape).astype(np.float32)
    nnopt.set_weights(model, weights)
    return model


def check_random_graph(spec, framework, seed, sparsity):
    """Masked, removed, and loaded from a recipe into another model: all give the same outputs."""
    model = randomized(spec, framework, seed)
    try:
        masks = nnopt.prune(model, sparsity=sparsity, granularity="node", score="random", seed=seed)
    except NnoptError as error:
        assert "needs a layer whose outputs another layer reads" in str(error)
        return
    x = np.random.default_rng(seed).standard_normal((3, *spec.input_shape), np.float32)
    masked, small = nnopt.predict(model, x), nnopt.remove_nodes(model, masks, fold=True)
    assert close(masked, nnopt.predict(small, x))
    assert nnopt.get_weights(small).keys() >= nnopt.get_weights(model).keys()
    after = nnopt.describe(small)
    assert {name: value.shape for name, value in nnopt.get_weights(small).items()} == (
        after.parameter_shapes(trainable=False)
    )


def pruned_lenet():
    from tests.torch_architectures import LeNet, drawn

    model = drawn(LeNet())
    return model, nnopt.prune(model, sparsity=0.5, granularity="node", example_input=X)


def examples(spec, count=7, seed=0):
    random = np.random.default_rng(seed)
    outputs = spec.shapes[spec.output][0]
    x = random.standard_normal((count, *spec.input_shape), np.float32)
    return x, random.integers(0, outputs, count)


def normalized(framework):
    spec = nnopt.cnn((4, 3), input_shape=(2, 6, 6), outputs=2, pool=1, batch_norm=True)
    return spec, randomized(spec, framework, 4)
