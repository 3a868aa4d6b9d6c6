"""Least squares in place of labels: layers are fitted to what they computed before channels were removed.

The graphs with and without the channels are walked through side by side with all batches at once. Each layer, as soon
as what it reads is known, gets the weights and the bias with which its output comes closest to the whole graph's; so
the layers behind it see what it yields then, and make up for what is left of the errors before them (He, Zhang and
Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017). Of what a layer reads only sums of
products are kept, so that memory doesn't grow with the amount of data. A draft, which orders of removal are compared
by, is fitted to fewer rows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Constant, Graph, Node, Value
from ..added_bias import added_bias
from ..base import Feeds, PassContext
from ..walk import walk
from ..windows import windows
from .least_squares import Regression, regression_of, regression_over
from .readers import Reader, reader
from .shrink import Kept

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Generator, Tensor

    from ...ir.interpreter import Held

WIDEST = 8192
"""The weights of an output beyond which a layer gets a bias alone."""
_ROWS = 4
"""How many rows are looked at for each of an output's weights, `_LEAST_ROWS` at least."""
_LEAST_ROWS = 16384
_DRAFTED = 4
"""How many times fewer rows a draft looks at."""
_DAMPINGS, _DRAFT_DAMPINGS = (1e-4, 1e-2, 1.0), (1e-2,)
"""What is added to each second moment, as shares of their mean; held-out batches choose."""
_GAIN = 0.99
"""The largest share of the error that may be left, for a layer to be changed."""


def repair(
    source: Graph,
    graph: Graph,
    kept: Kept,
    fitted: Sequence[Feeds],
    judging: Sequence[Feeds],
    context: PassContext,
    *,
    missing: Iterable[Value] = (),
    is_draft: bool = False,
) -> list[str]:
    """Fit layers that are selected, or read fewer channels, to what they computed with all channels.

    Where sums lack a term, layers whose output is added to something that lacks it are fitted to the whole sum.

    Args:
        source: the graph with all channels.
        graph: what `shrink` left of it, with the same nodes; edited in place.
        kept: the indices that are left of the axes of `source`.
        fitted: batches that weights are fitted to.
        judging: batches that decide whether a layer is changed; if there are none, `fitted` does.
        context: the context that has the selection and the seed, and that progress is reported to.
        missing: the sums of `source` that lack a term in `graph`.
        is_draft: whether fewer rows are looked at.

    Returns:
        The names of the outputs of the layers that were changed.
    """
    pairs = list(zip(source.nodes, graph.nodes, strict=True))
    twins, missing = dict(pairs), set(missing)
    layers: list[_Layer] = []
    moved = _moved(source, {*missing, *(value for value, _ in kept)})
    for place, (old, new) in enumerate(pairs):
        known = None if moved.isdisjoint(old.inputs[:1]) else reader(new)
        if known is None or known.weight.use_count != 1 or graph.is_output(known.weight):
            continue
        if not (new.output.use_count or graph.is_output(new.output)):
            continue
        if not context.selects(new) and (old.operand(0), known.axis) not in kept:
            continue
        masks = {axis: left for (value, axis), left in kept.items() if value is old.output}
        layer = _Layer.of(graph, place, known, old, masks)
        if missing and (summed := _summed(source, old)) is not None:
            layer.beside = summed[0].operand(summed[1]), twins[summed[0]].operand(summed[1])
        layers.append(layer)
    if not layers or not fitted:
        return []
    _walk(source, graph, layers, [*fitted, *judging], len(fitted), context, is_draft=is_draft)
    for layer in layers:
        layer.finish(graph)
    return [layer.reader.node.output.name for layer in layers if layer.is_changed]


def _summed(graph: Graph, layer: Node) -> tuple[Node, int] | None:
    """The Add of a layer's output, or its sum with a bias, and of a value that is known before; and that one's index.

    None where there is no such Add, or something else reads the output.
    """
    bias = added_bias(layer)
    output = layer.output if bias is None else bias[0].output
    if output.use_count != 1 or output.uses[0].node.operator != "Add":
        return None
    add, index = output.uses[0].node, 1 - output.uses[0].index
    other = add.operand(index)
    is_known = other.producer is None or graph.position(other.producer) < graph.position(layer)
    return (add, index) if is_known and other.type is output.type else None


def _moved(graph: Graph, changed: Iterable[Value]) -> set[Value | None]:
    """The values that differ: those that are changed, and all that is computed from them."""
    found: set[Value | None] = set(changed)
    for node in graph.nodes:
        if not found.isdisjoint((*node.inputs, *node.captured)):
            found.update(node.outputs)
    return found


def _walk(
    source: Graph,
    graph: Graph,
    layers: Sequence["_Layer"],
    batches: Sequence[Feeds],
    fitted: int,
    context: PassContext,
    *,
    is_draft: bool,
) -> None:
    import torch

    generator = torch.Generator().manual_seed(context.seed)
    fewer, dampings = (_DRAFTED, _DRAFT_DAMPINGS) if is_draft else (1, _DAMPINGS)
    before, behind = 0, 0  # nodes run of each graph: a layer may change, what it is fitted to doesn't
    with walk(source, batches) as whole, walk(graph, batches) as pruned, torch.no_grad():

        def seen(layer: _Layer) -> "Iterator[tuple[Tensor, Tensor]]":
            for number in range(len(batches)):
                values = whole.advance(number, behind, layer.place + 1)
                others = pruned.advance(number, before, layer.place)
                x = others[layer.reader.x]
                pruned.interpreter.advance(others, range(layer.place, layer.place + 1))
                wanted, found = values[layer.output], others[layer.reader.node.output]
                assert isinstance(x, torch.Tensor)
                assert isinstance(wanted, torch.Tensor)
                assert isinstance(found, torch.Tensor)
                if layer.beside is not None:
                    whole_term, term = values[layer.beside[0]], others[layer.beside[1]]
                    assert isinstance(whole_term, torch.Tensor)
                    assert isinstance(term, torch.Tensor)
                    wanted = wanted + whole_term - term
                yield layer.sample(x, wanted, found, layer.enough_rows // (fewer * len(batches)) + 1, generator)

        def observe(layer: _Layer) -> list[np.ndarray]:
            nonlocal before, behind
            pairs = seen(layer)
            first = next(pairs)
            shift = first[0].mean(0) * (layer.bias is not None)
            fit = regression_over(chain([first], islice(pairs, fitted - 1)), shift)
            judge = regression_over(pairs, shift) if fitted < len(batches) else fit
            before, behind = layer.place, layer.place + 1
            return [*fit.arrays, *judge.arrays, shift.numpy(), generator.get_state().numpy()]

        for done, layer in enumerate(layers):
            context.progress("fitting layers", done, len(layers))
            *arrays, shift, state = context.remember(partial(observe, layer))
            generator.set_state(torch.from_numpy(state))
            fit, judge = (regression_of(arrays[place : place + 3]) for place in (0, 3))
            layer.change(pruned.constants, fit, judge, torch.from_numpy(shift), dampings)
    context.progress("fitting layers", len(layers), len(layers))


@dataclass(slots=True)
class _Layer:
    """A layer of the graph that lacks channels.

    Attributes:
        place: the index of the layer's node in the graph.
        reader: the layer.
        output: the layer's output in the whole graph.
        masks: a boolean for each index of that output's axes that lost some, whether it is left, by axis. A pool that
            is written as a product keeps the channels of images beside the axis that it multiplies.
        bias: the constant that is added to the output; None where none can be changed.
        beside: what the output is added to in the whole graph, and in the other; None to fit the output by itself.
        is_changed: whether the layer was changed, since that was worth it.
    """

    place: int
    reader: Reader
    output: Value
    masks: Mapping[int, np.ndarray]
    bias: Constant | None
    beside: tuple[Value, Value] | None = None
    is_changed: bool = False

    @classmethod
    def of(cls, graph: Graph, place: int, known: Reader, old: Node, masks: Mapping[int, np.ndarray]) -> "_Layer":
        """The layer of a node, with a bias of zeros if it has none and can have one."""
        node, bias = known.node, None
        if node.operator == "MatMul":
            added = added_bias(node)
            bias = None if added is None else added[0].inputs[added[1]]
        elif node.attributes.get("beta", 1.0):
            if node.input(2) is None:
                size = node.output.shape[known.output_axis]
                assert isinstance(size, int)
                zeros = np.zeros(size, known.weight.data.dtype)
                graph.set_input(node, 2, graph.add_constant(zeros, f"{known.weight.name}_bias"))
            bias = node.inputs[2]
        if not isinstance(bias, Constant) or bias.use_count != 1 or graph.is_output(bias):
            return cls(place, known, old.output, masks, None)
        is_whole = bias.data.size == node.output.shape[known.output_axis]
        return cls(place, known, old.output, masks, bias if is_whole else None)

    @property
    def _kernel(self) -> int:
        """How many weights an output has; 0 if they aren't fitted."""
        data, node = self.reader.weight.data, self.reader.node
        if node.operator == "ConvTranspose" or node.attributes.get("group", 1) != 1:
            return 0
        outputs = node.output.shape[self.reader.output_axis]
        count = data.size // outputs if isinstance(outputs, int) and outputs else 0
        return count if count <= WIDEST else 0

    @property
    def enough_rows(self) -> int:
        """How many rows the layer's weights are fitted to."""
        return max(_LEAST_ROWS, _ROWS * self._kernel)

    def sample(
        self, x: "Tensor", wanted: "Tensor", found: "Tensor", count: int, generator: "Generator"
    ) -> "tuple[Tensor, Tensor]":
        """Some rows of what is read, `[rows, K]`, and of what the output lacks, `[rows, N]`."""
        import torch

        axis = self.reader.output_axis
        for other, left in self.masks.items():
            wanted = wanted.index_select(other, torch.from_numpy(np.flatnonzero(left)))
        lacking = (wanted - found).movedim(axis, -1)
        places = torch.randperm(lacking.shape[:-1].numel(), generator=generator)[:count]
        lacking = lacking.reshape(-1, lacking.shape[-1])[places].float()
        if not self._kernel:
            return lacking.new_zeros(len(lacking), 0), lacking
        if self.reader.node.operator != "Conv":
            return x.reshape(-1, x.shape[-1])[places].float(), lacking
        seen = windows(x, self.reader.node)
        where = torch.unravel_index(places, (seen.shape[0], *seen.shape[2 : x.ndim]))
        return seen.movedim(1, x.ndim - 1)[where].flatten(1).float(), lacking

    def change(
        self, held: "dict[Value, Held]", fit: Regression, judge: Regression, shift: "Tensor", dampings: Sequence[float]
    ) -> None:
        """Take the change with the least error.

        Args:
            held: the graph's constants, as the walk has them.
            fit: the data that changes are fitted to.
            judge: the data that changes are judged by.
            shift: what was subtracted from what the layer reads.
            dampings: the dampings to try.
        """
        changes = fit.changes(dampings, has_bias=self.bias is not None)
        errors = [judge.error(change) for change in changes]
        if not errors or not min(errors) < _GAIN * judge.lacks:
            return
        change = changes[int(np.argmin(errors))]
        self.is_changed = True
        node = self.reader.node
        slope, offset = change[:-1], change[-1] - shift.double() @ change[:-1]
        if self.bias is not None:
            scale = node.attributes.get("beta", 1.0) if node.operator == "Gemm" else 1.0
            _add(held, self.bias, offset / scale)
        if len(slope):
            slope = slope / node.attributes.get("alpha", 1.0)
            turned = node.operator == "Conv" or node.attributes.get("transB")
            _add(held, self.reader.weight, slope.T if turned else slope)

    def finish(self, graph: Graph) -> None:
        """Remove a bias that is all zeros in the end."""
        if self.bias is not None and not self.bias.data.any() and self.reader.node.operator != "MatMul":
            graph.set_input(self.reader.node, 2, None)
            graph.erase_constant(self.bias)


def _add(held: "dict[Value, Held]", constant: Constant, change: "Tensor") -> None:
    """Change a constant, and what a walk holds of it."""
    from ...ir.ops.dtypes import to_torch

    constant.data = (constant.data + change.numpy().reshape(constant.data.shape)).astype(constant.data.dtype)
    held[constant] = to_torch(constant.data)
