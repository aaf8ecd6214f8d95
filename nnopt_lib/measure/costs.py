"""What a network costs, counted from its description. No framework is needed; chapter 02 teaches it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nnopt_lib.structure.spec import NetSpec, Node, split_name

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Cost:
    """Counts of one network or node, for one example. `bytes` are those of float32 numbers.

    weights: entries of kernels. parameters: weights, biases, scales and shifts. macs: multiply-accumulate
    operations of dense layers, convolutions and attention's two products (2 floating-point operations each;
    other nodes count none).
    activation_bytes: outputs of all nodes, which training keeps; flatten is a view and counts none.
    """

    weights: int
    parameters: int
    macs: int
    activation_bytes: int

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters in float32."""
        return FLOAT32_BYTES * self.parameters


def count_by_node(spec: NetSpec) -> dict[str, Cost]:
    """The `Cost` of every node, by name, in order."""
    sizes: dict[str, dict[str, int]] = {node.name: {} for node in spec.nodes}
    for name, shape in spec.parameter_shapes().items():
        layer, part = split_name(name)
        sizes[layer][part] = math.prod(shape)
    costs = {}
    for node in spec.nodes:
        parts, out = sizes[node.name], spec.shapes[node.name]
        weights = parts.get("kernel", 0)
        costs[node.name] = Cost(
            weights=weights,
            parameters=sum(parts.values()),
            # every weight is used once for each position of the output
            macs=_attention_macs(spec, node) if node.op == "attention" else weights * math.prod(out[1:]),
            activation_bytes=0 if node.op == "flatten" else FLOAT32_BYTES * math.prod(out),
        )
    return costs


def _attention_macs(spec: NetSpec, node: Node) -> int:
    """Of query times key, and of the attention times the value, for all heads together."""
    query, key, value = (spec.shapes[name] for name in node.inputs)
    return math.prod(query[1:]) * math.prod(key[1:]) * (query[0] + value[0])


def count(spec: NetSpec) -> Cost:
    """The whole network's `Cost`, for one example.

    Example:
        >>> from nnopt_lib import lenet_300_100
        >>> count(lenet_300_100())
        Cost(weights=266200, parameters=266610, macs=266200, activation_bytes=3240)
    """
    costs = list(count_by_node(spec).values())
    totals = (sum(getattr(cost, name) for cost in costs) for name in Cost.__dataclass_fields__)
    return Cost(*totals)
