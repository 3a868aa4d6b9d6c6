"""What people read: progress and tables on stderr, so that stdout stays free for JSON and graphs."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ..ir.errors import printable
from ..passes.instrument import PassRecord
from ..passes.units import show_bytes, show_count, show_seconds
from . import interrupts
from .reporter import Reporter
from .results import Artifact, PassRow, folded
from .words import at_sizes, faster, folded_lines, smaller

if TYPE_CHECKING:  # what is shown brings torch where it is made
    from .bench import BenchRow
    from .comparison import Comparison
    from .diff.differences import Differences
    from .gate import Check
    from .inspection import Inspection
    from .plans import Found
    from .tuning import Tuned

TABLE_WIDTH = 100
"""Columns that tables fit."""
_FEW = 15
"""Rows of tables of what differs, of which there may be very many."""
_LOG_SECONDS = 30.0
"""How often a log tells how far long work is."""


class ConsoleReporter(Reporter):
    """Tells on a terminal: a line for each stage, a bar for long work, tables for results.

    A log has a line for long work twice a minute.

    Args:
        console: the terminal, or a log.
        verbosity: -1 for warnings alone, 0 for stages and results, 1 for every pass.
        all_passes: whether tables have a row for each pass; otherwise presets are one row, and idle passes none.
    """

    def __init__(self, console: Console, verbosity: int = 0, *, all_passes: bool = False) -> None:
        self._console = console
        self._is_quiet, self._is_verbose = verbosity < 0, verbosity > 0
        self._all_passes = all_passes or verbosity > 0
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._told = time.monotonic()

    @contextmanager
    def live(self) -> Generator[None]:
        """While it lasts, the current stage spins below what is printed; in a log file it is a plain line."""
        if not self._console.is_terminal or self._is_quiet:
            yield
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            self._progress, self._task = progress, progress.add_task("", total=None)
            yield

    def stage(self, text: str) -> None:
        interrupts.check()
        if self._progress is not None and self._task is not None:
            self._progress.reset(self._task, description=printable(text), total=None)
        else:
            self._line(text, "dim")

    def running(self, name: str, number: int, total: int) -> None:
        text = f"[{number}/{total}] {name}" if number <= total else name  # a fixed point has more rounds than passes
        if self._is_verbose or self._progress is not None:
            self.stage(text)
        interrupts.check()

    def progress(self, description: str, done: int, total: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=description, completed=done, total=total)
        elif time.monotonic() - self._told >= _LOG_SECONDS:
            self._told = time.monotonic()
            self._line(f"{description}: {done} of {total}", "dim")

    def note(self, text: str) -> None:
        self._line(f"note: {text}")

    def warn(self, text: str) -> None:
        self._console.print(f"warning: {printable(text)}", style="yellow", soft_wrap=not self._console.is_terminal)

    def passes(self, rows: Sequence[PassRow]) -> None:
        if rows and not self._is_quiet:
            print_table(self._console, passes_table(rows if self._all_passes else [row for _, row in folded(rows)]))
            hidden = sum(row.effect is not None and not any(row.counts.values()) for row in rows)
            if hidden and not self._all_passes:
                self._line(f"{hidden} passes changed nothing; --all shows each", "dim")

    def searched(self, found: "Found") -> None:
        if not self._is_quiet:
            print_table(self._console, search_table(found))

    def built(self, artifact: Artifact) -> None:
        interrupts.check()
        if not self._is_quiet:
            print_table(self._console, summary_table(artifact))
        if artifact.is_slower:
            self.warn(
                "the artifact is slower than the untouched model; leave out the pass that slowed it down, or exclude "
                "layers from that pass (skip=)"
            )

    def _line(self, text: str, style: str | None = None) -> None:
        """Print a line; in a log it stays one line however long it is."""
        if not self._is_quiet:
            self._console.print(printable(text), style=style, soft_wrap=not self._console.is_terminal)


def print_table(console: Console, table: Table) -> None:
    """Print a table within `TABLE_WIDTH` columns, wherever its numbers fit into them."""
    needed = console.measure(table).minimum
    console.print(table, width=min(console.width, max(TABLE_WIDTH, needed)))


class _Table(Table):
    """A table that may show what files say."""

    def add(self, name: str, *cells: str) -> None:
        """Add a row."""
        self.add_row(_Name(name), *map(printable, cells))


class _Name:
    """What a row is about: where it is too long for its column, it goes on in another line, behind a comma or a dot."""

    def __init__(self, text: str) -> None:
        self._text = printable(text)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, Text(self._text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("\n".join(folded_lines(self._text, options.max_width)), overflow="fold")


def _table(*columns: str, title: str | None = None) -> _Table:
    """The first column is text, the others are numbers."""
    table = _Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(
            printable(column), justify="left" if number == 0 else "right", overflow="fold", no_wrap=number > 0
        )
    return table


def _maybe(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def passes_table(rows: Sequence[PassRow]) -> Table:
    """A row for each pass: what it changed, and what the graph costs after it."""
    table = _table("pass", "changes", "nodes", "parameters", "size", "FLOPs", "drift", "metric", "time")
    table.columns[-1].min_width = len("19.6 ms")  # so that names break in the same place whatever the times are
    for row in rows:
        table.add(
            row.text,
            str(sum(row.counts.values())) if row.effect else "",
            str(row.cost.nodes),
            show_count(row.cost.parameters),
            show_bytes(row.cost.bytes),
            show_count(row.cost.flops),
            _maybe(row.drift, ".2g"),
            _maybe(row.metric, ".4f"),
            show_seconds(row.seconds) if row.effect else "",
        )
    if len(rows) > 2:
        table.add("total", *[""] * 7, show_seconds(sum(row.seconds for row in rows)))
    return table


def summary_table(artifact: Artifact) -> Table:
    """The untouched model and the artifact side by side, with ratios."""
    before, after = artifact.untouched, artifact.built
    threads = "1 thread" if artifact.threads == 1 else f"{artifact.threads} threads"
    table = _table("", f"untouched ({before.backend})", f"built ({after.backend})", "change")
    if (
        artifact.metric is not None
        and before.score is not None
        and after.score is not None
        and artifact.drop is not None
    ):
        worse, better = artifact.flips or (0, 0)
        pairs = f" ({worse} worse, {better} better)" if artifact.flips else ""
        change = f"{after.score.value - before.score.value:+z.4f}{pairs}"
        table.add(artifact.metric.name, f"{before.score.value:.4f}", f"{after.score.value:.4f}", change)
    table.add("size", show_bytes(before.size), show_bytes(after.size), smaller(artifact.shrinkage))
    speedup = "not measured" if artifact.speedup is None else faster(artifact.speedup)
    latencies = ("" if it.latency is None else str(it.latency) for it in (before, after))
    where = at_sizes(artifact.sizes)
    table.add(f"latency, {threads}" + (where and f", {where}"), *latencies, speedup)
    for it in artifact.lengths:
        times = (str(it.untouched), str(it.built))
        table.add(f"latency, {at_sizes(it.sizes)}", *times, faster(it.built.speedup_over(it.untouched)))
    return table


def records_table(records: Sequence[PassRecord]) -> Table:
    """Where `planish opt --time-passes` spent its time."""
    table = _table("pass", "time", "changes", "nodes", "drift")
    for record in records:
        changes = str(sum(record.result.counts.values()))
        drift = _maybe(record.drift, ".2g")
        table.add(record.text, show_seconds(record.seconds), changes, str(record.nodes), drift)
    return table


def bench_table(rows: "Sequence[BenchRow]") -> Table:
    """Latency with quartiles of the ratio to the first row, memory, size."""
    table = _table("model", "backend", "latency", "speed (quartiles)", "memory", "size")
    for row in rows:
        memory = "" if row.memory is None else show_bytes(row.memory)
        where = at_sizes(row.sizes)
        name = f"{row.name}, {where}" if where else row.name
        table.add(name, row.backend, str(row.latency), str(row.speedup), memory, show_bytes(row.size))
    return table


def comparison_tables(comparison: "Comparison") -> Iterator[Table]:
    """The outputs' differences, then the costs."""
    outputs = _table(
        "output", "largest difference", "relative", "cosine", "SQNR", "same argmax", "KL", title="B against A"
    )
    outputs.columns[0].no_wrap = True
    for row in comparison.outputs:
        numbers = (f"{row.largest:.3g}", f"{row.relative:.3g}", f"{row.cosine:.6f}", f"{row.sqnr:.1f} dB")
        within = "" if row.agreement_interval is None else " ({:.2%}-{:.2%})".format(*row.agreement_interval)
        outputs.add(row.name, *numbers, _maybe(row.agreement, ".2%") + within, _maybe(row.divergence, ".3g"))
    if comparison.unlike:
        outputs.caption = f"other shapes, judged by the metric alone: {printable(', '.join(comparison.unlike))}"
    yield outputs
    costs = _table("", "A", "B", "B against A")
    a, b = comparison.a, comparison.b
    costs.add("", a.name, b.name, "")
    costs.add("backend", a.backend, b.backend, "")
    if a.metric is not None and b.metric is not None:
        costs.add(str(comparison.metric), f"{a.metric:.4f}", f"{b.metric:.4f}", f"{b.metric - a.metric:+z.4f}")
    if comparison.drop_interval is not None:
        costs.add("95 % of its drop", "", "", "{:.4f} to {:.4f}".format(*comparison.drop_interval))
    if comparison.flips is not None:
        only_a, only_b = comparison.flips
        costs.add("right in one alone", str(only_a), str(only_b), f"McNemar p = {comparison.mcnemar:.3f}")
    costs.add("size", show_bytes(a.size), show_bytes(b.size), smaller(comparison.shrinkage))
    latencies = (str(side.latency) for side in (a, b))
    where = at_sizes(comparison.sizes)
    costs.add("latency" + (where and f", {where}"), *latencies, faster(comparison.speedup))
    yield costs


def search_table(found: "Found") -> Table:
    """The plans that no other beats in speed, size and metric at once, and how the chosen one does on held-out data."""
    drop = f"{found.drop:.4f}" + ("" if found.interval is None else " ({:.4f} to {:.4f})".format(*found.interval))
    table = _table("plan", "speed", "size", "metric drops by", "")
    table.caption = (
        f"{len(found.points)} of {found.plans} plans were built; on the half of the evaluation data that no plan "
        f"was built on, the metric of the chosen plan drops by {drop}" + (found.doubt and f", {found.doubt}")
    )
    if found.better is not None:
        table.caption += f"; {found.better.plan} may keep the budget as well, but these data don't show it"
    for point in found.front:
        mark = "chosen" if point is found.chosen else ""
        table.add(str(point.plan), f"{point.gain:.2f}x", f"{1 / point.shrinkage:.2f}", f"{point.drop:.4f}", mark)
    return table


def difference_tables(found: "Differences") -> Iterator[Table]:
    """Nodes that differ, weights that differ most, outputs on the same inputs."""
    counts = _table("", "A", "B")
    counts.add("", *found.names)
    for name in ("nodes", "parameters", "bytes", "flops"):
        counts.add(name, *(show_count(getattr(cost, name)) for cost in found.costs))
    counts.add("nodes that are the same", str(found.same), str(found.same))
    counts.add("nodes that differ", str(len(found.nodes)), str(len(found.nodes)))
    counts.add("nodes that it alone has", str(len(found.only_a)), str(len(found.only_b)))
    yield counts
    if found.nodes:
        nodes = _table("node of B", "operator", "what differs", title=_first("nodes that differ", found.nodes))
        for it in found.nodes[:_FEW]:
            nodes.add(it.module or it.name, it.operator, "\n".join(it.what[:3]))
        yield nodes
    if found.weights:
        heads = ("weight of B", "A", "B", "largest difference", "relative")
        weights = _table(*heads, title=_first("weights that differ", found.weights))
        for it in found.weights[:_FEW]:
            weights.add(it.name, *it.types, _maybe(it.largest, ".3g"), _maybe(it.relative, ".3g"))
        yield weights
    outputs = _table("output", "largest difference", "relative", "cosine", title="outputs on the same inputs")
    if found.unknown:
        outputs.caption = f"not compared: {printable(found.unknown)}"
    for it in found.outputs:
        outputs.add(it.name, f"{it.largest:.3g}", f"{it.relative:.3g}", f"{it.cosine:.6f}")
    yield outputs


def _first(title: str, rows: Sequence[object]) -> str:
    return title if len(rows) <= _FEW else f"{title}, {_FEW} of {len(rows)}"


def gate_table(checks: "Sequence[Check]", comparison: "Comparison", sufficient: int | None) -> Iterator[Table]:
    """What became of each bound, and whether there were samples enough to tell; nothing without bounds."""
    if not checks:
        return
    table = _table("gate", "found", "bound", "met")
    if sufficient is not None:
        table.caption = (
            f"it takes {sufficient:,} samples to detect, in 95 of 100 cases, a model that is worse by twice the bound; "
            f"there are {comparison.samples:,}"
        )
    for it in checks:
        table.add(it.name, it.found, it.bound, "yes" if it.is_met else "no")
    yield table


def tuning_tables(tuned: "Tuned") -> Iterator[Table]:
    """The kernels that were measured, and what tuning them is worth for the model."""
    kernels = _table("kernel", "layer", "time", "estimated", "fastest", "gain")
    for row in tuned.findings:
        ways = [", ".join(f"{name} {value}" for name, value in way.items()) for way in (row.estimated, row.fastest)]
        taken = "the same" if row.estimated == row.fastest else ways[1]
        kernels.add(row.kernel, row.layer, f"{row.share:.1%}", ways[0], taken, f"{row.gain:.2f}x")
    yield kernels
    left = tuned.kernels - tuned.known - len(tuned.findings)
    summary = _table("", "")
    summary.add("kernels that can be generated in several ways", str(tuned.kernels))
    summary.add("known from before", str(tuned.known))
    summary.add("left as estimated, for want of time or weight", str(left))
    summary.add("the model", "as before" if tuned.speedup is None else faster(tuned.speedup))
    yield summary


def inspection_tables(inspection: "Inspection") -> Iterator[Table]:
    """Inputs and outputs, totals, operators, modules."""
    ports = _table(inspection.name, "", title=None)
    for kind, values in (("input", inspection.inputs), ("output", inspection.outputs)):
        for name, type in values.items():
            ports.add(f"{kind} {name}", type)
    cost = inspection.cost
    ports.add("nodes", str(cost.nodes))
    ports.add("parameters", show_count(cost.parameters))
    ports.add("weights", show_bytes(cost.bytes))
    if inspection.sizes:
        ports.add("counted with", ", ".join(f"{name} = {size}" for name, size in inspection.sizes.items()))
    ports.add("FLOPs", show_count(cost.flops))
    ports.add("activations at their peak", show_bytes(inspection.activations))
    yield ports
    heads = ("operator", "count", "FLOPs", "moved", "int8", "dynamic int8", "weights alone (bits)")
    operators = _table(*heads, title=f"operators, on {inspection.target}")
    for row in inspection.operators:
        weights = ", ".join(f"{backend} {'/'.join(map(str, bits))}" for backend, bits in row.weights.items())
        kernels = (", ".join(row.int8), ", ".join(row.dynamic_int8), weights)
        moved = show_bytes(row.moved) if row.moved else ""
        operators.add(row.name, str(row.count), show_count(row.flops), moved, *kernels)
    yield operators
    modules = _table("module", "nodes", "parameters", "weights", "FLOPs")
    for name, part in inspection.modules.items():
        costs = (show_count(part.parameters), show_bytes(part.bytes), show_count(part.flops))
        modules.add(name or "(none)", str(part.nodes), *costs)
    yield modules
    if inspection.groups:
        groups = _table("layers", "channels", "rows each", "read by", "coupled by", "why none can go", title="groups")
        for row in inspection.groups:
            names = (", ".join(row.readers), ", ".join(row.couplers), row.frozen or "")
            groups.add(", ".join(row.layers), str(row.size), str(row.width), *names)
        yield groups
