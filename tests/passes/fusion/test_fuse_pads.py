"""Padding goes into the convolution or pooling after it where that pads with the same, and nowhere else."""

import pytest

X = "float32[1, 2, 5, 5]"
PADDED = "float32[1, 2, 6, 7]"
WIDTHS = "const %p: int64[8] = [0, 0, 0, 1, 0, 0, 1, 1]"
CONV = "Conv(%n, %w) {strides = [2, 2]}"


def graph(call: str, result: str, *, held: str = WIDTHS, pad: str = "Pad(%x, %p)", padded: str = PADDED) -> str:
    weight = (
        "const %w: float32[2, 2, 2, 2] = [1.0, 2.0, 3.0, 4.0, -1.0, 2.0, -3.0, 4.0, 0.5, 0.5, "
        "1.0, 2.0, 3.0, -4.0, 1.0, 1.0]"
    )
    lines = f"{weight if '%w' in call else ''}\n{held}"
    return f"(%x: {X}) {{\n{lines}\n%n: {padded} = {pad}\n%y: {result} = {call}\nreturn y = %y\n}}"


def after(call: str, result: str, name: str) -> str:
    text = graph(call, result, held="").replace(f"%n: {PADDED} = Pad(%x, %p)\n", "")
    return text.replace("%y: ", f"%{name}: ").replace("%y", f"%{name}").replace("%n", "%x")


@pytest.mark.parametrize(
    ("held", "pad"),
    [
        (WIDTHS, "Pad(%x, %p)"),
        (f"{WIDTHS}\nconst %v: float32[] = 0.0", "Pad(%x, %p, %v)"),
        ("const %p: int64[4] = [1, 0, 1, 1]\nconst %a: int64[2] = [-1, 2]", "Pad(%x, %p, none, %a)"),
    ],
)
def test_a_convolution_pads_itself(becomes, held: str, pad: str) -> None:
    before = graph("Conv(%n, %w) {pads = [1, 0, 0, 0], strides = [2, 2]}", "float32[1, 2, 3, 3]", held=held, pad=pad)
    same = after("Conv(%n, %w) {pads = [1, 1, 1, 1], strides = [2, 2]}", "float32[1, 2, 3, 3]", "conv")
    assert becomes("fuse-pads", before, same).counts == {"pad": 1}


def test_a_pool_pads_itself(becomes) -> None:
    held = f"{WIDTHS}\nconst %v: float32[] = -inf"
    before = graph("MaxPool(%n) {kernel_shape = [2, 2]}", "float32[1, 2, 5, 6]", held=held, pad="Pad(%x, %p, %v)")
    becomes(
        "fuse-pads",
        before,
        after("MaxPool(%n) {kernel_shape = [2, 2], pads = [0, 1, 1, 1]}", "float32[1, 2, 5, 6]", "maxpool"),
    )
    average = "AveragePool(%n) {{{}kernel_shape = [2, 2]{}}}"
    becomes(
        "fuse-pads",
        graph(average.format("", ""), "float32[1, 2, 5, 6]"),
        after(average.format("count_include_pad = 1, ", ", pads = [0, 1, 1, 1]"), "float32[1, 2, 5, 6]", "averagepool"),
    )


@pytest.mark.parametrize(
    ("held", "pad", "call", "result", "padded", "reason"),
    [
        (
            f"{WIDTHS}\nconst %v: float32[] = 1.0",
            "Pad(%x, %p, %v)",
            CONV,
            "float32[1, 2, 3, 3]",
            PADDED,
            "isn't what it pads",
        ),
        (WIDTHS, 'Pad(%x, %p) {mode = "reflect"}', CONV, "float32[1, 2, 3, 3]", PADDED, ""),
        (
            WIDTHS,
            "Pad(%x, %p)",
            "MaxPool(%n) {kernel_shape = [2, 2]}",
            "float32[1, 2, 5, 6]",
            PADDED,
            "isn't what it pads",
        ),
        (
            WIDTHS.replace("1, 1]", "-1, 1]"),
            "Pad(%x, %p)",
            CONV,
            "float32[1, 2, 2, 3]",
            "float32[1, 2, 4, 7]",
            "some are cut",
        ),
        (
            WIDTHS,
            "Pad(%x, %p)",
            'Conv(%n, %w) {auto_pad = "SAME_UPPER"}',
            "float32[1, 2, 6, 7]",
            PADDED,
            "depends on the size",
        ),
        (
            WIDTHS,
            "Pad(%x, %p)",
            "AveragePool(%n) {kernel_shape = [2, 2], pads = [1, 0, 0, 0]}",
            "float32[1, 2, 6, 6]",
            PADDED,
            "count one part",
        ),
        (WIDTHS, "Pad(%x, %p)", "AveragePool(%n) {kernel_shape = [1, 2]}", "float32[1, 2, 6, 6]", PADDED, "a window"),
    ],
)
def test_other_padding_stays(stays, held: str, pad: str, call: str, result: str, padded: str, reason: str) -> None:
    misses = stays("fuse-pads", graph(call, result, held=held, pad=pad, padded=padded)).misses
    assert any(reason in miss for miss in misses) if reason else not misses
