"""Long runs that look for what ends wrongly.

python benchmarks/soak.py files --cases 200000                 all formats
python benchmarks/soak.py files --formats onnx --only onnx:17  one case again, with its traceback
python benchmarks/soak.py guided --seconds 600                 files that reach new lines, by atheris; on Linux
python benchmarks/soak.py faults                               builds that are killed, or (as root) out of disk
python benchmarks/soak.py threads                              8 threads that call one model, 10,000 times each
python benchmarks/soak.py leaks                                200 models compiled, called and dropped in turn
python benchmarks/soak.py graphs --first 100 --cases 50000     random graphs in both backends after all passes
python benchmarks/soak.py graphs --first 517 --cases 1         one graph again, compiled as users' graphs are
"""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from fuzz import faults as fault_cases
from fuzz.cases import FORMATS, GOOD, check_case, make_case
from fuzz.leaks import Leaks, cycles
from fuzz.models import PIPELINES
from fuzz.places import BACKENDS, Fault, prepare
from fuzz.seeds import write_seeds
from fuzz.threads import Called, calls
from workers import check_all

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # for random_graphs

SECONDS = 30.0
"""The time after which a case counts as hung."""

CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16", "LRU_CACHE_CAPACITY": "16", "SYMPY_CACHE_SIZE": "100"}
"""What torch and sympy may keep of kernels and expressions for new sizes: the defaults, 1024 and 1000, fill slowly."""


def files(arguments: argparse.Namespace) -> int:
    """Mutated files of all formats; returns how many failed."""
    with TemporaryDirectory(prefix="planish-seeds-") as folder:
        write_seeds(Path(folder))
        if arguments.only:
            return _again(arguments.only, Path(folder), arguments.keep)
        share = max(1, arguments.cases // len(arguments.formats))
        first = arguments.first
        names = [f"{kind}:{number}" for number in range(first, first + share) for kind in arguments.formats]
        outcomes = check_all(check_case, names, (folder,), arguments.jobs, SECONDS)
    found = {name: _named(row[folder]) for name, row in outcomes.items()}
    counts = {
        kind: Counter(found[name][0] for name in names if name.startswith(f"{kind}:")) for kind in arguments.formats
    }
    failures = {name: outcome for name, outcome in found.items() if outcome[0] not in GOOD}
    if arguments.json:
        print(json.dumps({"counts": counts, "failures": failures}))
        return len(failures)
    for kind, row in counts.items():
        print(f"{kind:12}", ", ".join(f"{count} {what}" for what, count in row.most_common()))
    for reason, row in sorted(_by_reason(failures).items(), key=lambda item: -len(item[1])):
        print(f"{len(row)} x {reason}\n    {' '.join(row[:8])}")
    return len(failures)


def _named(outcome: tuple[str, str]) -> tuple[str, str]:
    return ("hang", outcome[1]) if outcome[0] == "crash" and "no answer" in outcome[1] else outcome


def _by_reason(failures: dict[str, tuple[str, str]]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, (what, text) in failures.items():
        kind = f"{name.partition(':')[0]} {what}: {text.partition(': ')[0] if ' at ' in text else text}"
        reasons.setdefault(kind, []).append(name)
    return reasons


def _again(name: str, seeds: Path, keep: Path | None) -> int:
    """One case in this process."""
    with TemporaryDirectory() as scratch:
        folder = keep or Path(scratch)
        folder.mkdir(exist_ok=True)
        path = make_case(name, seeds, folder)
        try:
            FORMATS[name.partition(":")[0]].read(path)
        except Exception:
            traceback.print_exc()
            return 1
    return 0


def guided(arguments: argparse.Namespace) -> int:
    """Files that reach new lines of code, of each format for so many seconds; returns how many formats have failed."""
    failures = 0
    with TemporaryDirectory(prefix="planish-seeds-") as folder:
        write_seeds(Path(folder))
        for kind in arguments.formats:
            corpus = arguments.corpus / kind
            corpus.mkdir(parents=True, exist_ok=True)
            paths = map(str, (Path(folder) / kind, corpus.absolute(), arguments.seconds))
            command = [sys.executable, "-m", "fuzz.guided", kind, *paths]
            done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
            stats = re.findall(r"stat::(number_of_executed_units|new_units_added|peak_rss_mb): +(\d+)", done.stderr)
            print(kind, ", ".join(f"{name} {number}" for name, number in stats), flush=True)
            if done.returncode:
                failures += 1
                said = done.stderr.partition("Uncaught Python exception")[2] or done.stderr
                print(*said.splitlines()[:40], sep="\n    ", flush=True)
    return failures


def faults(arguments: argparse.Namespace) -> int:
    """Builds that are killed, interrupted, out of disk, or in each other's way; returns how many have failed."""
    with TemporaryDirectory(prefix="planish-faults-") as folder:
        place = Path(folder)
        counts, failures = Counter[str](), dict[str, str]()
        for name, check in _fault_cases(arguments, place):
            if not name.startswith(arguments.only or ""):
                continue
            try:
                outcome = check()
            except Fault as fault:
                failures[name], outcome = str(fault), "FAILED"
                print(f"{name}: {fault}", file=sys.stderr, flush=True)
            counts[f"{name.partition(':')[0]}, {outcome}"] += 1
            shutil.rmtree(place / name.replace(":", "-"), ignore_errors=True)
    if arguments.json:
        print(json.dumps({"counts": counts, "failures": failures}))
        return len(failures)
    for what, count in sorted(counts.items()):
        print(f"{count:5} {what}")
    for name, fault in failures.items():
        print(f"{name}: {fault}")
    return len(failures)


def _fault_cases(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """The cases by name: what checks each."""
    seconds = prepare(folder)
    signals = [("kill", arguments.kills), ("interrupt", arguments.interrupts)]
    for name in (
        f"{kind}:{number}" for kind, count in signals for number in range(arguments.first, arguments.first + count)
    ):
        yield name, lambda name=name: fault_cases.signalled(name, folder / name.replace(":", "-"), seconds)
    if arguments.swaps:
        yield from fault_cases.swaps(folder, arguments.swaps)
    is_root = fault_cases.can_mount()
    if arguments.sizes and not is_root:
        print("skipped: full disks, since only root may mount small ones", file=sys.stderr)
    for number, size in enumerate(fault_cases.sizes(arguments.sizes) if is_root else ()):
        for name in (f"{which}:{number}" for which in ("output", "cache", "temporary")):
            yield name, lambda name=name, size=size: fault_cases.full(name, size, folder / name.replace(":", "-"))
    for name in (f"together:{number}" for number in range(arguments.rounds)):
        yield name, lambda name=name: fault_cases.side_by_side(name, folder / name.replace(":", "-"), arguments.builds)


def threads(arguments: argparse.Namespace) -> int:
    """Calls of one model from several threads; returns how many models have failed."""
    names = map(":".join, product(arguments.backends, arguments.dtypes))
    return _each_alone(names, calls, (arguments.threads, arguments.calls), arguments.json)


def leaks(arguments: argparse.Namespace) -> int:
    """Models that are compiled, called and dropped; returns how many rows of them have failed."""
    os.environ |= CACHES
    names = map(":".join, product(arguments.backends, arguments.dtypes, arguments.models))
    return _each_alone(names, cycles, (arguments.cycles,), arguments.json)


def _each_alone(
    names: Iterable[str], work: Callable[..., Called | Leaks], given: tuple[int, ...], as_json: bool
) -> int:
    """Each case in a process of its own, so that none finds the memory of another; returns how many have failed."""
    found: dict[str, object] = {}
    failures = 0
    with TemporaryDirectory(prefix="planish-cache-") as folder:
        os.environ["PLANISH_CACHE"] = folder
        for name in names:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                try:
                    outcome = pool.submit(work, name, *given).result()
                    found[name], faults = asdict(outcome), outcome.faults
                except BrokenProcessPool as death:
                    found[name], faults = {}, [str(death)]
            failures += bool(faults)
            print(name, found[name], *faults, sep="\n    ", file=sys.stderr if as_json else sys.stdout, flush=True)
    if as_json:
        print(json.dumps({"found": found, "failures": failures}))
    return failures


def graphs(arguments: argparse.Namespace) -> int:
    """Random graphs in interpreter and backends, after all passes; returns how many have failed."""
    from fuzz.graphs import is_fine, rounds  # which import TVM

    counts, reasons, failures = Counter[str](), Counter[str](), dict[int, str]()
    with TemporaryDirectory(prefix="planish-cache-") as folder:
        os.environ |= {"PLANISH_CACHE": folder, "TVM_BIND_THREADS": "0"}
        try:
            for outcomes in rounds(arguments.first, arguments.cases, arguments.jobs, arguments.seconds):
                counts.update(what for what, _ in outcomes.values())
                fine = [text for what, text in outcomes.values() if is_fine(what)]
                reasons.update(reason for text in fine for reason in text.splitlines())
                failed = {number: f"{what}: {text}" for number, (what, text) in outcomes.items() if not is_fine(what)}
                failures |= failed
                said = ", ".join(f"{count} {what}" for what, count in counts.most_common())
                print(f"graphs to {max(outcomes)}: {said}", *failed.items(), sep="\n", file=sys.stderr, flush=True)
        finally:  # interrupted as well
            if arguments.json:
                print(json.dumps({"counts": counts, "reasons": reasons, "failures": failures}))
            else:
                print(*(f"{count:5} x {reason}" for reason, count in reasons.most_common()), sep="\n")
                print(f"failed: {sorted(failures)}")
    return len(failures)


def _add_cases(command: argparse.ArgumentParser) -> None:
    for name, choices in {"backends": BACKENDS, "dtypes": tuple(PIPELINES)}.items():
        command.add_argument(f"--{name}", nargs="+", choices=choices, default=choices)
    command.add_argument("--json", action="store_true")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("files", help=files.__doc__)
    command.add_argument("--cases", type=int, default=8000)
    command.add_argument("--first", type=int, default=0, help="number of the first case of each format")
    command.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    command.add_argument("--jobs", type=int, default=1)
    command.add_argument("--only", help="a case, such as onnx:17")
    command.add_argument("--keep", type=Path, help="folder that the files of --only are left in")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=files)
    command = commands.add_parser("guided", help=guided.__doc__)
    command.add_argument("--seconds", type=int, default=600, help="seconds for each format")
    command.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    command.add_argument(
        "--corpus", type=Path, default=Path("corpus"), help="folder of what was found, from run to run"
    )
    command.set_defaults(run=guided)
    command = commands.add_parser("faults", help=faults.__doc__)
    command.add_argument("--kills", type=int, default=200, help="builds that are killed at random moments")
    command.add_argument("--interrupts", type=int, default=200, help="builds that are interrupted at random moments")
    command.add_argument("--first", type=int, default=0, help="number of the first kill and the first interrupt")
    command.add_argument(
        "--swaps", type=int, default=1000, help="kills within the swap, at most, where it exchanges and where not"
    )
    command.add_argument("--sizes", type=int, default=20, help="sizes of full disks for each of three folders")
    command.add_argument("--rounds", type=int, default=24, help="rounds of builds side by side")
    command.add_argument("--builds", type=int, default=3, help="builds side by side in a round")
    command.add_argument("--only", help="a case, such as kill:17, or the beginning of the names of several")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=faults)
    command = commands.add_parser("threads", help=threads.__doc__)
    command.add_argument("--threads", type=int, default=8)
    command.add_argument("--calls", type=int, default=10_000, help="calls of each thread")
    _add_cases(command)
    command.set_defaults(run=threads)
    command = commands.add_parser("leaks", help=leaks.__doc__)
    command.add_argument("--cycles", type=int, default=200)
    command.add_argument("--models", nargs="+", choices=("same", "new"), default=("same", "new"), help="kind of models")
    _add_cases(command)
    command.set_defaults(run=leaks)
    command = commands.add_parser("graphs", help=graphs.__doc__)
    command.add_argument("--cases", type=int, default=512, help="graphs, rounded up to whole batches")
    command.add_argument("--first", type=int, default=0, help="number of the first graph")
    command.add_argument("--jobs", type=int, default=1)
    command.add_argument("--seconds", type=float, default=900, help="seconds after which a batch of 32 counts as hung")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=graphs)
    arguments = parser.parse_args()
    return min(arguments.run(arguments), 1)


if __name__ == "__main__":
    sys.exit(main())
