"""What weights in 8, 4 and 2 bits gain for a product of a few rows: the source of `weights` in targets/*.toml.

    python benchmarks/few_bits_kernels.py [threads]

planish's kernels for TVM, in few bits and in float32, beside ONNX Runtime's: MatMulNBits that computes in float32, the
same with activations in 8 bits (accuracy level 4), and MatMul. They run in turn; each time is the fastest of many.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from turns import in_turns, seconds_of
from tvm import IRModule, compile
from tvm.runtime import tensor
from tvm.tirx import PrimFunc

from planish.backends.tvm.kernels.epilogue import Epilogue
from planish.backends.tvm.kernels.gemm import Gemm, gemm_kernel, packed, tiles
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.llvm import llvm_target
from planish.backends.tvm.relax.converters.matmul_nbits import Layout
from planish.ir.block_weight import BlockScheme, BlockWeight
from planish.targets.load import load_target

BLOCK = 32
SHAPES = [(768, 768), (768, 3072), (4096, 4096), (576, 1536), (1536, 576), (576, 49152)]
ROWS = [1, 2, 4, 8, 16, 128]
SECONDS = 1.5
"""Seconds for which the kernels of a shape run in turn."""

Call = Callable[[], object]


def ours(x: np.ndarray, matrix: np.ndarray, threads: int) -> dict[str, Call]:
    """Calls of the kernels for TVM."""
    target = replace(load_target("native"), threads=threads)
    machine, sizes = Machine.of(target), Gemm(x.shape[:1], *matrix.shape)
    plain = tiles(sizes, machine)[0]
    kernels: dict[str, tuple[PrimFunc, list[np.ndarray]]] = {}
    for bits in (8, 4, 2):
        weight = BlockWeight.nearest(matrix, BlockScheme(bits, BLOCK))
        layout = Layout.of(sizes.batch_dims, weight, machine)
        kernels[f"{bits} bits"] = layout.kernel(machine, Epilogue()), layout.packed(weight)
    kernels["float32"] = gemm_kernel(sizes, plain, machine, Epilogue()), [packed(matrix, plain)]
    calls: dict[str, Call] = {}
    for name, (kernel, right) in kernels.items():
        main = compile(IRModule({"main": kernel.with_attr("global_symbol", "main")}), target=llvm_target(target))[
            "main"
        ]
        y = np.zeros((len(x), sizes.n), np.float32)
        arguments = [tensor(np.ascontiguousarray(array)) for array in (x, *right, y)]
        calls[f"planish, {name}"] = lambda main=main, arguments=arguments: main(*arguments)
    return calls


def onnx_runtime(x: np.ndarray, matrix: np.ndarray, threads: int) -> dict[str, Call]:
    """Calls of ONNX Runtime's kernels."""
    calls = {"ONNX Runtime, float32": _call(helper.make_node("MatMul", ["x", "w0"], ["y"]), (matrix,), x, threads)}
    for bits, level in ((4, 0), (4, 4), (8, 4), (2, 4)):
        weight = BlockWeight.nearest(matrix, BlockScheme(bits, BLOCK))
        depth, columns = matrix.shape
        sizes: dict[str, Any] = {"K": depth, "N": columns, "bits": bits, "block_size": BLOCK, "accuracy_level": level}
        node = helper.make_node("MatMulNBits", ["x", "w0", "w1", "w2"], ["y"], domain="com.microsoft", **sizes)
        name = f"ONNX Runtime, {bits} bits" + (", activations 8" if level else "")
        calls[name] = _call(node, weight.inputs, x, threads)
    return calls


def _call(node: NodeProto, arrays: Sequence[np.ndarray], x: np.ndarray, threads: int) -> Call:
    """A call of one node, with its constants."""
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (len(x), arrays[0].shape[not node.domain]))],
        [numpy_helper.from_array(array, f"w{index}") for index, array in enumerate(arrays)],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return _session(helper.make_model(graph, opset_imports=opsets, ir_version=10), x, threads)


def _session(model: ModelProto, x: np.ndarray, threads: int) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or it steals a core from the next kernel
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
    binding.bind_output("y")
    return lambda: session.run_with_iobinding(binding)


def fastest(calls: dict[str, Call]) -> dict[str, float]:
    """The seconds of each call's fastest turn."""
    times = in_turns(list(calls.values()), lambda call: min(map(seconds_of, (call,) * 3)), seconds=SECONDS)
    return dict(zip(calls, times.min(axis=1).tolist(), strict=True))


def main(threads: int = 1) -> None:
    """Measure and print a line for each kernel."""
    os.environ["TVM_NUM_THREADS"] = str(threads)
    generator = np.random.default_rng(0)
    for depth, columns in SHAPES:
        matrix = generator.standard_normal((depth, columns), np.float32)
        for rows in ROWS:
            x = generator.standard_normal((rows, depth), np.float32)
            times = fastest(ours(x, matrix, threads) | onnx_runtime(x, matrix, threads))
            print(f"{rows} x {depth} x {columns}, {threads} threads")
            for name, seconds in times.items():
                ratio = seconds / times["planish, 4 bits"]
                print(
                    f"  {name:36} {seconds * 1e6:9.1f} us  "
                    f"{2 * rows * matrix.size / seconds / 1e9:6.1f} GFLOP/s  {ratio:5.2f}"
                )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
