"""TVM's own ONNX importer, for operators without a converter of ours."""

import numpy as np
import onnx
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from ....ir.contents import contents
from ....ir.graph import Attribute, Constant, Node
from ....ir.infer import find_operator
from ....ir.operators import has_trait
from ....ir.opset import OPSET
from ....ir.traits import Trait
from ..compat import importers
from . import broadcasting
from .emitter import Emitter


def imported(emitter: Emitter, node: Node) -> relax.Expr:
    """Convert a node to Relax.

    Raises:
        NotImplementedError: the importer doesn't know the operator.
    """
    if node.operator not in (table := importers()):
        raise NotImplementedError("there is no kernel for it")
    attributes = {name: _attribute(value) for name, value in node.attributes.items()}
    if has_trait(node.operator, Trait.BROADCASTING):
        broadcasting.bind_result(emitter, node)
    attributes["tvm_custom"] = {"name": "", "num_outputs": len(node.outputs)}
    inputs = onnx_frontend.onnx_input(_operand(emitter, node, index) for index in range(len(node.inputs)))
    convert = table[node.operator].get_converter(OPSET)
    return emitter.block.normalize(convert(emitter.block, inputs, attributes, [{}, {}]))


def _operand(emitter: Emitter, node: Node, index: int) -> relax.Expr | int | None:
    value = node.inputs[index]
    if value is None:
        return None
    if has_trait(node.operator, Trait.BROADCASTING):
        return broadcasting.operand(emitter, value, node.output.shape)
    elements = contents(value) if index in find_operator(node.operator).host else None
    if elements is None or isinstance(value, Constant):
        return emitter.tensor(value)
    if all(isinstance(element, int) for element in elements):
        return relax.const(np.array(elements).reshape(value.type.static_shape), str(value.dtype))
    return emitter.shape(elements) if value.type.rank else emitter.size(elements[0])


def _attribute(value: Attribute) -> object:
    """Return an attribute as the importer reads it from a file."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, np.ndarray):
        return onnx.numpy_helper.from_array(value)
    return value
