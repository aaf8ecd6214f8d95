"""Random edits of random graphs, and what it means that the function stayed; for the tests of edits."""

import numpy as np
from hypothesis import strategies as st

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.coupling import FIXED, couple
from nnopt_lib.structure.edits.deepen import never_negative
from nnopt_lib.structure.spec import INPUT, NetSpec, Node, split_name
from nnopt_lib.structure.weights import initial_weights
from tests.networks import architectures, networks

GRAPHS = st.one_of(networks(), architectures())


def drawn_weights(spec: NetSpec, seed: int = 3) -> dict[str, np.ndarray]:
    """Weights of which nothing is 0 or 1: biases, shifts, means and variances are drawn too."""
    random, weights = np.random.default_rng(seed), initial_weights(spec, seed)
    for name, value in weights.items():
        _, part = split_name(name)
        if part in ("bias", "shift", "mean"):
            weights[name] = random.normal(0, 0.3, value.shape).astype(np.float32)
        elif part in ("scale", "variance"):
            weights[name] = random.uniform(0.5, 1.5, value.shape).astype(np.float32)
    return weights


def outputs(spec: NetSpec, weights: dict[str, np.ndarray], framework: str = "torch") -> np.ndarray:
    model = nnopt.build(spec, framework)
    nnopt.set_weights(model, weights)
    x = np.random.default_rng(0).normal(size=(4, *spec.input_shape)).astype(np.float32)
    return nnopt.predict(model, x)


def assert_same_function(before, after, frameworks=("torch",)):
    for framework in frameworks:
        old, new = outputs(*before, framework), outputs(*after, framework)
        assert np.abs(new - old).max() <= 1e-5 * max(1.0, np.abs(old).max()), framework
    assert NetSpec.from_json(after[0].to_json()) == after[0]
    shapes = after[0].parameter_shapes(trainable=False)
    assert {name: value.shape for name, value in after[1].items()} == shapes


def wide_layers(spec: NetSpec) -> list[str]:
    """Layers whose nodes are free, each of one channel; what torn groups or flattened sums forbid is tried later."""
    nodes = couple(spec).nodes
    return [
        node.name
        for node in spec.nodes
        if node.has_kernel
        and (nodes[node.name] != FIXED).all()
        and len(set(nodes[node.name])) == len(nodes[node.name])
    ]


def random_edit(draw, spec, weights):
    """One function-preserving edit, or None where the graph has no place for the kind that was drawn."""
    kind = draw(st.sampled_from(["plain", "residual", "widen", "add", "concat"]))
    seed = draw(st.integers(0, 99))
    names = [node.name for node in spec.nodes]
    if kind in ("plain", "residual"):
        after = draw(st.sampled_from([INPUT, *names[:-1]]))
        options = {"kernel": draw(st.sampled_from([1, 3])), "batch_norm": draw(st.booleans())}
        relu = kind == "residual" or never_negative(spec, after)
        activation = "relu" if relu else None
        return nnopt.deepen(
            spec, after, kind=kind, activation=activation, weights=weights, seed=seed, **options
        )
    if kind == "widen":
        layers = wide_layers(spec)
        if not layers:
            return None
        layer = draw(st.sampled_from(layers))
        width = spec.shapes[layer][0] + draw(st.integers(1, 5))
        try:
            return nnopt.widen(spec, layer, width, weights=weights, seed=seed)
        except NnoptError as error:
            assert "no longer stand in the same order" in str(error) or "groups of" in str(error)
            return None
    targets = [n for n in spec.nodes if len(n.inputs) == 1 and (kind == "add" or n.has_kernel)]
    target = draw(st.sampled_from(targets))
    source = draw(st.sampled_from([INPUT, *names[: names.index(target.name)]]))
    try:
        options = {"projection": True} if kind == "add" else {}
        return nnopt.connect(spec, source, target.name, how=kind, weights=weights, seed=seed, **options)
    except NnoptError as error:
        reasons = ("already reads", "no stride makes", "no positions to add", "without groups")
        assert any(reason in str(error) for reason in reasons), error
        return None


MLP = nnopt.mlp((8, 8), inputs=8, outputs=2)


CNN = nnopt.cnn((4, 4), input_shape=(1, 8), outputs=2)


GROUPED = NetSpec(
    (4, 8),
    (
        Node("a", "conv1d", INPUT, {"filters": 4, "kernel": 1}),
        Node("b", "conv1d", "a", {"filters": 4, "kernel": 1, "groups": 2}),
        Node("pool", "global_pool", "b"),
        Node("out", "dense", "pool", {"units": 2}),
    ),
)


UNPADDED = NetSpec(
    (1, 9),
    (
        Node("c", "conv1d", INPUT, {"filters": 1, "kernel": 3}),
        Node("g", "global_pool", "c"),
        Node("o", "dense", "g", {"units": 1}),
    ),
)


def weighed(spec):
    return {"weights": drawn_weights(spec)}
