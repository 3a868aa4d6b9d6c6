"""planish: the build step between training a model and deploying it.

    graph = planish.trace(module, (x,))
    result = planish.optimize(graph, "cleanup,fuse,quantize{scheme=int8}", data=calibration)
    executable = planish.compile(result.graph)
    outputs = executable(x)

Names are imported when they are first used: loading an artifact needs numpy and its runtime, and nothing else
(docs/runtime.md). All other names take the extra `build`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backends.artifact import load
    from .driver.api import compile, optimize, read, write
    from .driver.build import build
    from .driver.recipe import Recipe
    from .frontends.torch import trace
    from .ir.builder import Builder
    from .ir.errors import PlanishError
    from .ir.graph import Graph
    from .ir.ops.registry import operator
    from .passes.adapters.switch import adapter_inputs, read_adapter, save_adapter
    from .passes.base import Effect, GraphwisePass, Pass, PassContext, PassResult
    from .passes.instrument import Instrument
    from .passes.quantization.caches import integer_caches
    from .passes.rewrite import RewriteRule
    from .passes.verification import Verification

__all__ = [
    "Builder",
    "Effect",
    "Graph",
    "GraphwisePass",
    "Instrument",
    "Pass",
    "PassContext",
    "PassResult",
    "PlanishError",
    "Recipe",
    "RewriteRule",
    "Verification",
    "adapter_inputs",
    "build",
    "compile",
    "integer_caches",
    "load",
    "operator",
    "optimize",
    "read",
    "read_adapter",
    "save_adapter",
    "trace",
    "write",
]

_HOMES = {
    "Builder": ".ir.builder",
    "Effect": ".passes.base",
    "Graph": ".ir.graph",
    "GraphwisePass": ".passes.base",
    "Instrument": ".passes.instrument",
    "Pass": ".passes.base",
    "PassContext": ".passes.base",
    "PassResult": ".passes.base",
    "PlanishError": ".ir.errors",
    "Recipe": ".driver.recipe",
    "RewriteRule": ".passes.rewrite",
    "Verification": ".passes.verification",
    "adapter_inputs": ".passes.adapters.switch",
    "build": ".driver.build",
    "compile": ".driver.api",
    "integer_caches": ".passes.quantization.caches",
    "load": ".backends.artifact",
    "operator": ".ir.ops.registry",
    "optimize": ".driver.api",
    "read": ".driver.api",
    "read_adapter": ".passes.adapters.switch",
    "save_adapter": ".passes.adapters.switch",
    "trace": ".frontends.torch",
    "write": ".driver.api",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version(__name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in ("load", "PlanishError"):
        import_module(".ir.extras", __name__).require_build(f"{__name__}.{name}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
