"""Long runs that look for what ends wrongly.

python benchmarks/soak.py files --cases 200000                 all formats
python benchmarks/soak.py files --formats onnx --only onnx:17  one case again, with its traceback
"""

import argparse
import json
import sys
import traceback
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from fuzz.cases import FORMATS, check_case, make_case
from fuzz.seeds import write_seeds
from workers import check_all

SECONDS = 30.0
"""After which a case counts as hung."""

GOOD = ("equal", "refused")


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
    arguments = parser.parse_args()
    return min(arguments.run(arguments), 1)


if __name__ == "__main__":
    sys.exit(main())
