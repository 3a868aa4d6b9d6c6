"""What checks and instruments cost beside the passes that they watch, on a graph of ten thousand nodes.

    pip install planish[build,benchmarks]
    python benchmarks/overhead.py [--nodes 10000] [--rounds 5] [--json RESULTS.json]

The graph is a GPT-2 of narrow and many layers, as `planish.trace` gives it. `cleanup,fuse` runs over copies of it,
without checks, with the verifier after every pass, and with instruments besides; they take turns, in another order each
time. What they cost is the time of the whole run without that of the passes, over that of the passes. A pipeline of one
pass that finds nothing to do is timed as well. Times are of the processor, which other work on the machine disturbs
less.
"""

import gc
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import transformers
import typer
from rich.console import Console
from rich.table import Table

import planish
from planish.ir.graph import Graph
from planish.ir.verify import verify
from planish.passes import manager
from planish.passes.base import PassContext
from planish.passes.instrument import Instrument
from planish.passes.instruments.memory import Memory
from planish.passes.instruments.statistics import Statistics
from planish.passes.manager import PassManager
from planish.passes.pipeline import parse_pipeline
from planish.targets.load import load_target

MOST_OVERHEAD, MOST_SECONDS = 0.1, 0.05
NODES_OF_A_LAYER = 40

WAYS: dict[str, tuple[str, Callable[[], list[Instrument]]]] = {
    "no checks": ("none", list),
    "the verifier": ("structure", list),
    "the verifier, stats": ("structure", lambda: [Statistics()]),
    "the verifier, stats, memory": ("structure", lambda: [Statistics(), Memory()]),
}


def make_graph(nodes: int) -> Graph:
    config = transformers.GPT2Config(
        n_layer=-(-nodes // NODES_OF_A_LAYER), n_embd=8, n_head=2, vocab_size=16, n_positions=16, use_cache=False
    )
    graph = planish.trace(transformers.GPT2LMHeadModel(config).eval(), (torch.zeros((1, 8), dtype=torch.long),))
    verify(graph)
    return graph


def overhead(graph: Graph, level: str, instruments: list[Instrument]) -> float:
    """What is spent outside of the passes, over what is spent in them."""
    copy, context = graph.clone(), PassContext(load_target("native"), graph)
    passes = parse_pipeline("cleanup,fuse")
    gc.collect()  # or some runs wait for it, and others don't
    start = time.process_time()
    records = PassManager(passes, instruments, level).run(copy, context)
    whole = time.process_time() - start
    return whole / sum(record.seconds for record in records) - 1


def idle(graph: Graph) -> float:
    """Seconds of a pipeline that finds nothing to do, checks of structure and numbers included."""
    context, passes = PassContext(load_target("native"), graph), parse_pipeline("fuse-gelu")
    copy = graph.clone()
    PassManager(parse_pipeline("fuse-gelu"), verify="structure").run(copy, context)
    start = time.process_time()
    PassManager(passes).run(copy, context)
    return time.process_time() - start


def main(
    nodes: Annotated[int, typer.Option(help="The least number of nodes of the graph.")] = 10_000,
    rounds: Annotated[int, typer.Option(help="Runs for each row of the table.")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to a file.")] = None,
) -> None:
    """Measure, print a table, and fail if checks and instruments cost more than a tenth, or nothing more than 50 ms."""
    manager.time.perf_counter = time.process_time  # the records' clock
    graph = make_graph(nodes)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    seconds: list[float] = []
    order = list(WAYS)
    for _ in range(rounds):
        random.shuffle(order)
        for way in order:
            level, instruments = WAYS[way]
            found[way].append(overhead(graph, level, instruments()))
        seconds.append(idle(graph))
    table = Table("beside the passes", "median", "quartiles", title=f"{len(graph)} nodes, cleanup,fuse")
    for way, values in found.items():
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        table.add_row(way, f"{middle:.1%}", f"{low:.1%} to {high:.1%}")
    low, middle, high = (1000 * value for value in np.quantile(seconds, (0.25, 0.5, 0.75)))
    table.add_row("a pass that finds nothing", f"{middle:.0f} ms", f"{low:.0f} to {high:.0f} ms")
    Console(stderr=False).print(table)
    if json_file is not None:
        json_file.write_text(
            json.dumps({"nodes": len(graph), "overhead": found, "idle seconds": seconds}, indent=2) + "\n"
        )
    dearest = max(np.median(values) for values in found.values())
    raise SystemExit(int(dearest > MOST_OVERHEAD or np.median(seconds) > MOST_SECONDS))


if __name__ == "__main__":
    typer.run(main)
