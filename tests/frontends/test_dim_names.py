import pytest

from planish.frontends.dim_names import DimNames


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batch", "batch"),
        (3, 3),
        ("p2o.DynamicDimension.0", "p2o_DynamicDimension_0"),
        ("?", "x_1"),
        ("", "x_1"),
        (None, "x_1"),
        (-1, "x_1"),
        (0, "x_1"),
        ("N x M", "N_x_M"),
        ("7", "dim_7"),
        ("None", "dim_None"),
        ("Max", "dim_Max"),  # a function in dimensions, which no symbol may be called after
    ],
)
def test_texts_become_symbols(text: str | int | None, expected: str | int) -> None:
    assert DimNames(["batch", text]).dim(text, "x_1") == expected


def test_equal_texts_are_equal_dimensions_and_unnamed_ones_are_not() -> None:
    names = DimNames(["a.b", "a.b", "?", "?"])
    assert names.dim("a.b", "x_0") == names.dim("a.b", "y_0")
    assert names.dim("?", "x_1") != names.dim("?", "x_1")


def test_made_up_symbols_collide_with_no_named_one() -> None:
    names = DimNames(["?", "x_0", "a.b", "a_b"])
    made = [names.dim(text, "x_0") for text in ("?", "x_0", "a.b", "a_b")]
    assert len(set(made)) == 4
    assert made[1::2] == ["x_0", "a_b"]


def test_expressions_over_named_dimensions_stay() -> None:
    names = DimNames(["past", "sequence", "past + sequence", "hidden + 1"])
    assert names.dim("sequence + past", "x_0") == names.dim("past + sequence", "y_0") == "past + sequence"
    assert names.dim("hidden + 1", "x_1") == "hidden_1"  # nothing gives `hidden` a size
