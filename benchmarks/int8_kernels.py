"""Which 8-bit kernels of ONNX Runtime beat its float ones on this machine: the source of `int8` in targets/*.toml.

    python benchmarks/int8_kernels.py [threads]

Three sessions of one operator run in turn, round after round: float; DequantizeLinear -> operator -> QuantizeLinear
between 8-bit ends, which the runtime fuses where it has an integer kernel; and the same file with fusion switched off,
which is what leaving the operator in float costs where its neighbours are quantized. Ratios above 1 favour integers. An
operator whose integer kernel is the same one or is absent shows a ratio of 1 against the unfused file.
"""

import sys
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from turns import in_turns, seconds_of

OPSET = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
Array = np.ndarray
Shape = tuple[int, ...]


def quantized(
    operator: str, shapes: list[Shape], weights: list[Array], output: Shape, **attributes: object
) -> onnx.ModelProto:
    """The operator between uint8 ends: weights are int8 per output channel, a second weight is an int32 bias."""
    nodes, constants, inputs = [], [], []
    for name, array in {"s": np.float32(0.02), "z": np.uint8(128)}.items():
        constants.append(numpy_helper.from_array(np.asarray(array), name))
    names: list[str] = []
    for index, shape in enumerate(shapes):
        inputs.append(helper.make_tensor_value_info(f"x{index}", TensorProto.UINT8, shape))
        nodes.append(helper.make_node("DequantizeLinear", [f"x{index}", "s", "z"], [f"dx{index}"]))
        names.append(f"dx{index}")
    channels = {"Conv": 0, "MatMul": 1, "Gemm": 1}.get(operator, 0)
    for index, weight in enumerate(weights):
        axis = channels if index == 0 else 0
        dtype = np.int8 if index == 0 else np.int32
        scale = np.full(weight.shape[axis], 0.01 if index == 0 else 0.0002, np.float32)
        constants += [
            numpy_helper.from_array((weight * 40).astype(dtype), f"w{index}"),
            numpy_helper.from_array(scale, f"sw{index}"),
            numpy_helper.from_array(np.zeros(len(scale), dtype), f"zw{index}"),
        ]
        nodes.append(
            helper.make_node("DequantizeLinear", [f"w{index}", f"sw{index}", f"zw{index}"], [f"dw{index}"], axis=axis)
        )
        names.append(f"dw{index}")
    nodes.append(helper.make_node(operator, names, ["y"], **attributes))
    nodes.append(helper.make_node("QuantizeLinear", ["y", "s", "z"], ["q"]))
    outputs = [helper.make_tensor_value_info("q", TensorProto.UINT8, output)]
    return helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, constants), opset_imports=OPSET, ir_version=10
    )


def floating(
    operator: str, shapes: list[Shape], weights: list[Array], output: Shape, **attributes: object
) -> onnx.ModelProto:
    """The operator alone."""
    names = [f"x{index}" for index in range(len(shapes))]
    constants = [
        numpy_helper.from_array(weight.astype(np.float32), f"w{index}") for index, weight in enumerate(weights)
    ]
    node = helper.make_node(operator, names + [constant.name for constant in constants], ["y"], **attributes)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in zip(names, shapes, strict=True)
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)]
    return helper.make_model(
        helper.make_graph([node], "g", inputs, outputs, constants), opset_imports=OPSET, ir_version=10
    )


def runner(model: onnx.ModelProto, threads: int, fuse: bool = True) -> Callable[[], object]:
    """A call that runs the model once on fixed random inputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.disable_quant_qdq", "0" if fuse else "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or it steals a core from the next session
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    feeds = {
        port.name: random.integers(0, 255, port.shape, dtype=np.uint8)
        if port.type == "tensor(uint8)"
        else random.standard_normal(port.shape, dtype=np.float32)
        for port in session.get_inputs()
    }
    return lambda: session.run(None, feeds)


def medians(calls: list[Callable[[], object]], seconds: float = 1.5) -> list[float]:
    """Median seconds of each call, run in turn."""
    for call in calls:
        call()
    return np.median(in_turns(calls, seconds_of, 15, seconds), axis=1).tolist()


def cases() -> list[tuple[str, str, list[Shape], list[Array], Shape, dict[str, object]]]:
    """Label, operator, input shapes, weights, output shape, attributes; shapes as in ResNet, MobileNet and BERT."""
    weight = np.random.default_rng(0).standard_normal
    found: list[tuple[str, str, list[Shape], list[Array], Shape, dict[str, object]]] = []
    for kernel, channels, size, groups in [
        (1, 64, 56, 1), (1, 256, 14, 1), (3, 64, 56, 1), (3, 256, 14, 1), (3, 96, 56, 96), (3, 384, 14, 384),
        (5, 240, 14, 240),
    ]:  # fmt: skip
        shape = (1, channels, size, size)
        weights = [weight((channels, channels // groups, kernel, kernel)), weight(channels)]
        label = f"Conv {kernel}x{kernel} {channels}ch {size}px" + (" depthwise" if groups > 1 else "")
        found.append((label, "Conv", [shape], weights, shape, {"pads": [kernel // 2] * 4, "group": groups}))
    for rows, inner, columns in [(128, 384, 384), (128, 384, 1536), (1, 512, 1000)]:
        weights = [weight((inner, columns)), weight(columns)]
        found.append((f"Gemm {rows}x{inner}x{columns}", "Gemm", [(rows, inner)], weights, (rows, columns), {}))
        found.append(
            (f"MatMul {rows}x{inner}x{columns}", "MatMul", [(1, rows, inner)], weights[:1], (1, rows, columns), {})
        )
    heads, scores = (1, 12, 128, 32), (1, 12, 128, 128)
    found.append(("MatMul q k (activations)", "MatMul", [heads, (1, 12, 32, 128)], [], scores, {}))
    found.append(("MatMul p v (activations)", "MatMul", [scores, heads], [], heads, {}))
    image, halved, tokens = (1, 64, 56, 56), (1, 64, 28, 28), (1, 128, 384)
    for operator in ("Add", "Mul"):
        found.append((f"{operator} image", operator, [image, image], [], image, {}))
        found.append((f"{operator} tokens", operator, [tokens, tokens], [], tokens, {}))
    found.append(("Mul gate", "Mul", [image, (1, 64, 1, 1)], [], image, {}))
    activations = ("Relu", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Tanh", "Gelu")
    found += [(operator, operator, [image], [], image, {}) for operator in activations]
    found.append(("Softmax", "Softmax", [scores], [], scores, {"axis": -1}))
    found.append(("Concat", "Concat", [image, image], [], (1, 128, 56, 56), {"axis": 1}))
    found.append(("Transpose", "Transpose", [(1, 128, 12, 32)], [], (1, 12, 128, 32), {"perm": [0, 2, 1, 3]}))
    window: dict[str, object] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    found.append(("MaxPool 2x2", "MaxPool", [image], [], halved, window))
    found.append(("AveragePool 2x2", "AveragePool", [image], [], halved, window))
    found.append(("GlobalAveragePool", "GlobalAveragePool", [image], [], (1, 64, 1, 1), {}))
    return found


def main(threads: int = 2) -> None:
    print(
        f"onnxruntime {onnxruntime.__version__}, {threads} threads; "
        f"speed of int8 relative to float, and to unfused Q/DQ"
    )
    for label, operator, shapes, weights, output, attributes in cases():
        model = quantized(operator, shapes, weights, output, **attributes)
        calls = [runner(floating(operator, shapes, weights, output, **attributes), threads)]
        calls += [runner(model, threads), runner(model, threads, fuse=False)]
        plain, fused, unfused = medians(calls)
        print(
            f"{label:32} {plain * 1e6:9.1f} us float   x{plain / fused:5.2f}   x{unfused / fused:5.2f} unfused",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
