"""Static int8: every activation has a grid from calibration, written as QuantizeLinear and DequantizeLinear.

The form is the one that runtimes fuse into integer kernels: DequantizeLinear -> operator -> QuantizeLinear, with
weights stored in int8 and biases in int32 (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2018).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Location, Node, Value
from ...ir.quantization import IntegerWeight, QuantParams, least_scales, quantize_weight
from ...ir.unused import drop_unused
from .embeddings import Lookup, integer_rows
from .layers import Layer, WeightKey, float_inputs, held_integers, tied_bits
from .plan import Plan


@dataclass(slots=True)
class StaticQuantizer:
    """Rewrites a graph by a plan.

    Attributes:
        graph: the graph to rewrite.
        plan: what is quantized where.
        grids: the grid of each of the plan's values that has one of its own.
        weight_bits: the bits of the weights, 8 at most; weights of 4 bits or fewer are stored in 4.
        per_channel: whether each output channel's weights have a scale of their own.
        rounded: the weights that are in integers already, with a scale for each channel.
    """

    graph: Graph
    plan: Plan
    grids: Mapping[Value, QuantParams]
    weight_bits: int
    per_channel: bool
    rounded: Mapping[WeightKey, IntegerWeight] = field(default_factory=dict[WeightKey, IntegerWeight])
    _tables: dict[Constant, Lookup] = field(default_factory=dict[Constant, Lookup], init=False)
    _constants: dict[Value, tuple[Constant, Constant]] = field(default_factory=dict, init=False)
    _weights: dict[tuple[Constant, int, bool], tuple[IntegerWeight, Value]] = field(default_factory=dict, init=False)

    def rewrite(self, layers: Sequence[Layer]) -> dict[Constant, Lookup]:
        """Put values on their grids, and the layers' weights and biases into integers.

        Returns:
            How rows are looked up now in the weights that embeddings share.
        """
        nodes = list(self.graph.nodes)
        following: dict[Node | None, Node | None] = dict(zip([None, *nodes], [*nodes, None], strict=True))
        floats = float_inputs(layers)
        for layer in layers:
            self._quantize_layer(layer)
        for value in self.plan.reads:
            self._quantize_activation(value, following[value.producer])
        for node in self.plan.folded_activations:
            self.graph.erase(node)
        drop_unused(self.graph, floats)
        return self._tables

    def _quantize_activation(self, value: Value, before: Node | None) -> None:
        """Insert the pair that puts a value on its grid, and make its readers read it there."""
        producer = value.producer
        source = producer.inputs[0] if producer in self.plan.folded_activations and producer is not None else value
        op = Builder(self.graph, before, Location() if producer is None else producer.location)
        scale, zero_point = self._grid_constants(op, value)
        integers = op.QuantizeLinear(source, scale, zero_point, name=f"{value.name}.integers")
        floats = op.DequantizeLinear(integers, scale, zero_point, name=f"{value.name}.floats")
        for node, index in self.plan.reads[value]:
            self.graph.set_input(node, index, floats)
        if value in self.plan.returned:
            self.graph.outputs.update({name: floats for name, held in self.graph.outputs.items() if held is value})

    def _grid_constants(self, op: Builder, value: Value) -> tuple[Constant, Constant]:
        root = self.plan.root(value)
        if root not in self._constants:
            scale, zero_point = self.grids[root].arrays()
            self._constants[root] = (
                op.constant(scale, f"{root.name}.scale"),
                op.constant(zero_point, f"{root.name}.zero_point"),
            )
        return self._constants[root]

    def _quantize_layer(self, layer: Layer) -> None:
        op = Builder(self.graph, layer.node, layer.node.location)
        step, bias = self.grids[self.plan.root(layer.x)].scale, layer.bias
        weight, floats = self._weight(op, layer, 0.0 if bias is None else least_scales(bias, step))
        self.graph.set_input(layer.node, 1, floats)
        if bias is not None:
            self.graph.set_input(layer.node, 2, self._bias(op, layer, bias, weight, step))
        if layer.node.operator == "MatMul":
            self._keep_add_apart(layer.node)

    def _bias(self, op: Builder, layer: Layer, bias: np.ndarray, weight: IntegerWeight, step: float) -> Value:
        """The bias on the grid of the products, whose step is the activation's times the weight's."""
        scale = (weight.scale * np.float32(step)).astype(np.float32)
        integers = np.rint(bias / scale.astype(np.float64)).astype(np.int32)
        name = f"{layer.weight.name}.bias"
        axis = {} if weight.axis is None else {"axis": 0}
        parameters = (op.constant(integers, f"{name}.integers"), op.constant(scale, f"{name}.scale"))
        return op.DequantizeLinear(*parameters, name=f"{name}.floats", **axis)

    def _keep_add_apart(self, node: Node) -> None:
        """Give the bias that is added to a MatMul a second axis.

        ONNX Runtime would make a float Gemm of MatMul and Add, for which it has no integer kernel; it looks for biases
        of one axis.
        """
        uses = node.outputs[0].uses
        adder = uses[0].node if len(uses) == 1 and uses[0].node.operator == "Add" else None
        for index, bias in enumerate(adder.inputs) if adder is not None else ():
            if adder is not None and isinstance(bias, Constant) and bias.data.ndim == 1:
                self.graph.set_input(adder, index, self.graph.add_constant(bias.data[np.newaxis], bias.name))
                drop_unused(self.graph, [bias])

    def _weight(self, op: Builder, layer: Layer, least: np.ndarray | float) -> tuple[IntegerWeight, Value]:
        """The layer's weight in integers, and the value that dequantizes it; layers that share a weight share both."""
        key = (*layer.key, layer.is_turned)
        held = self._weights.get(key)
        if held is not None and np.all(held[0].scale >= least):
            return held
        axis = layer.axis if self.per_channel else None
        least = least if self.per_channel else np.max(least)
        weight = self.rounded.get(layer.key)
        bits = tied_bits(self.weight_bits) if layer.is_tied else self.weight_bits
        if weight is None or np.any(weight.scale < least):
            weight = quantize_weight(layer.weight.data, axis, bits, least)
        name = layer.weight.name
        scale = op.constant(weight.scale, f"{name}.scale")
        integers = held_integers(op, weight.data, bits, f"{name}.integers")
        if layer.is_tied and isinstance(integers, Constant):
            self._tables.setdefault(layer.weight, integer_rows(integers, scale))
        floats = op.DequantizeLinear(
            op.Transpose(integers, perm=(1, 0)) if layer.is_turned else integers,
            scale,
            op.constant(np.zeros(weight.scale.shape, np.int8), f"{name}.zero_point"),
            name=f"{name}.floats",
            **({} if axis is None else {"axis": 1 if layer.is_turned else axis}),
        )
        self._weights.setdefault(key, (weight, floats))
        return weight, floats
