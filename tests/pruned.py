"""Models to remove nodes from, and what it means that two models give the same; for the tests of nodes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.spec import NetSpec, Node

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


def _after_sigmoid(*nodes, rank=0, first=(), kind="sigmoid"):
    """A layer of 6 nodes, `first` behind it, a sigmoid, `nodes` on that, and a dense layer that reads all."""
    shape, source = ((5, 7, 6), "conv2d") if rank else ((5,), "dense")
    size = {"filters": 6, "kernel": 3} if rank else {"units": 6}
    chain = [Node("made", source, "input", size)]
    for node in (*first, Node("sigmoid", "activation", "", {"kind": kind}), *nodes):
        chain.append(node if node.inputs != ("",) else replace(node, inputs=(chain[-1].name,)))
    if rank and not any(node.op in ("flatten", "global_pool") for node in chain):
        chain.append(Node("flat", "flatten", chain[-1].name))
    return NetSpec(shape, (*chain, Node("head", "dense", chain[-1].name, {"units": 4})))


def _kind(kind):
    return Node(kind, "activation", "", {"kind": kind})


def _conv(bias=True, **options):
    return Node("reads", "conv2d", "", {"filters": 5, "kernel": 3, "bias": bias, **options})


_NORM = Node("norm", "batch_norm", "")
# Networks in which removed nodes leave a constant that another layer reads. Biases and statistics are random.
LEAVING_CONSTANTS = {
    "dense": _after_sigmoid(),
    "batch norm before": _after_sigmoid(first=[_NORM]),
    "batch norm before, convolution": _after_sigmoid(_conv(), first=[_NORM], rank=2),
    "convolution": _after_sigmoid(_conv(), rank=2),
    "convolution without a bias": _after_sigmoid(_conv(bias=False), rank=2),
    "strided convolution": _after_sigmoid(_conv(stride=2, kernel=(3, 1)), rank=2),
    "batch norm on what reads": _after_sigmoid(_conv(bias=False), Node("norm", "batch_norm", ""), rank=2),
    "flatten": _after_sigmoid(rank=2),
    "mean of a map": _after_sigmoid(Node("pool", "global_pool", ""), rank=2),
    "largest of a map": _after_sigmoid(Node("pool", "global_pool", "", {"kind": "max"}), rank=2),
    "pooled": _after_sigmoid(Node("pool", "avg_pool", "", {"size": 2}), _conv(kernel=2), rank=2),
    **{f"{kind} on it": _after_sigmoid(_kind(kind)) for kind in ("relu", "gelu", "silu", "tanh")},
    "a second one": _after_sigmoid(Node("second", "activation", "", {"kind": "sigmoid"})),
    "summed": _after_sigmoid(Node("sum", "add", ("sigmoid", "made", "sigmoid"))),
    "multiplied": _after_sigmoid(Node("product", "multiply", ("sigmoid", "sigmoid"))),
    "joined": _after_sigmoid(
        Node("other", "dense", "input", {"units": 6}),
        Node("gelu", "activation", "other", {"kind": "gelu"}),
        Node("joined", "concat", ("gelu", "sigmoid", "other", "sigmoid")),
    ),
}


NORM_BEHIND_SIGMOID = _after_sigmoid(Node("norm", "batch_norm", ""))


def check_constants_are_folded(spec, framework):
    """Removed with fold=True the outputs stay, in every output that reads them; without it is a refusal."""
    check_random_graph(spec, framework, 3, 0.5)
    model = randomized(spec, framework, 3)
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", score="random", scope="layer", seed=3)
    with pytest.raises(NnoptError, match="would change its outputs; received an activation that makes"):
        nnopt.remove_nodes(model, masks)
    x = np.random.default_rng(3).standard_normal((3, *spec.input_shape), np.float32)
    small = nnopt.remove_nodes(model, masks, fold=True)
    reader = "reads/bias" if any(node.name == "reads" for node in spec.nodes) else "head/bias"
    before, after = (nnopt.get_weights(one) for one in (model, small))
    kept = masks["reads"] if reader == "reads/bias" else slice(None)
    own = before[reader][kept] if reader in before else 0.0  # a bias is made where there was none
    assert (np.abs(after[reader] - own) > 1e-4).all()  # every output reads the constants
    nnopt.set_weights(small, {**after, reader: after[reader] * 0 + own})
    assert not close(nnopt.predict(model, x), nnopt.predict(small, x))  # and needs them


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
