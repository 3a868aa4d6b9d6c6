"""`planish` with TVM's compiler in its own process, as it is nowhere else: what `build_time.py` compares with.

    python benchmarks/build_here.py build RECIPE.yaml

A fault of LLVM's ends the process.
"""

from pathlib import Path

from planish.backends.legal import legalized
from planish.backends.tvm.backend import Tvm
from planish.driver.cli import main
from planish.ir.graph import Graph
from planish.passes.legalization.origins import Origins
from planish.targets import Target


class Here(Tvm):
    """TVM in this process."""

    def compile(self, graph: Graph, target: Target, directory: Path) -> list[Path]:
        from planish.backends.tvm.codegen.build import Build

        return list(Build(legalized(graph, target, "tvm"), Origins.of(graph), target).write(directory).files)

    def warm_up(self) -> None:
        """Start no other process."""


if __name__ == "__main__":
    import planish.backends.tvm

    planish.backends.tvm.BACKEND = Here()
    main()
