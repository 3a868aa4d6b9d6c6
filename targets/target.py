"""A target: the CPU that an artifact is built for, and which kernels are legal and worth having on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Int8:
    """How 8-bit integer kernels behave on a target.

    Attributes:
        activation: the element type of quantized activations: `uint8` or `int8`.
        weight_bits: the bits of a weight: 8, or 7 where the multiply-add of 8-bit pairs saturates in 16 bits (x86
            before VNNI).
        operators: the operators whose integer kernel is faster than float, by backend.
        dynamic_operators: the same for weights in int8 and activations quantized at run time.
    """

    activation: str = "uint8"
    weight_bits: int = 8
    operators: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    dynamic_operators: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])

    def profitable_operators(self, *, static: bool) -> frozenset[str]:
        """The operators that pay off in integers, with ranges fixed beforehand or found at run time."""
        return _on_any(self.operators if static else self.dynamic_operators)


@dataclass(frozen=True, slots=True)
class Target:
    """A machine.

    Attributes:
        name: the name of the TOML file, or `native`.
        description: one line for `planish targets`.
        architecture: `x86_64` or `aarch64`.
        mcpu: LLVM's name of the CPU that instructions are ordered for, such as `znver4`; it says nothing of what there
            is.
        features: instruction sets that a compiler may use, all that they build on among them, as Linux and archspec
            call them (`avx512_vnni`); `targets.features` lists them.
        threads: the number of threads that an executable should use.
        fused: the fused operators that are faster than what they are made of, by backend; where a backend is missing,
            all that it runs are taken to be.
        int8: what is legal and profitable in 8-bit integers; None where nothing is.
        bfloat16: the operators whose products are faster in bfloat16 than in float32, by backend.
        weights: the operators whose products of a few rows are faster with constant weights in few bits than in
            float32, by the bits (8, 4 or 2) and by backend.
    """

    name: str
    description: str
    architecture: str
    mcpu: str
    features: frozenset[str]
    threads: int
    int8: Int8 | None
    fused: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    bfloat16: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    weights: Mapping[int, Mapping[str, frozenset[str]]] = field(default_factory=dict[int, Mapping[str, frozenset[str]]])

    def bfloat16_operators(self, backend: str = "") -> frozenset[str]:
        """The operators whose products are faster in bfloat16 than in float32, on a backend, or on any without one."""
        return self.bfloat16.get(backend, frozenset()) if backend else _on_any(self.bfloat16)

    def weight_operators(self, bits: int) -> frozenset[str]:
        """The operators whose products are faster with constant weights in so many bits than in float32."""
        return _on_any(self.weights.get(bits, {}))

    @property
    def lacks_int8(self) -> str:
        """Why nothing is computed in 8-bit integers where `int8` is None."""
        return f"8-bit kernels were not measured on {self.name}"

    def lacks_weights(self, bits: int) -> str:
        """Why no weights are stored in so many bits where `weight_operators` has none."""
        return f"products with weights in {bits} bits were not measured on {self.name}"


def _on_any(by_backend: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The operators that pay off on some backend: which one the graph is lowered to is chosen later."""
    return frozenset[str]().union(*by_backend.values())
