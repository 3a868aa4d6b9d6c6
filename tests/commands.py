"""Commands of planish in a process of its own, one after the other: importing torch takes longer than most of them."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROGRAM = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from planish.driver.cli import main

done = []
for arguments in json.loads(sys.argv[1]):
    sys.argv, code = ["planish", *arguments], 0
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            main()
        except SystemExit as end:
            code = end.code
    done.append((code or 0, out.getvalue(), err.getvalue()))
print(json.dumps(done))
"""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended, and what it has said."""

    code: int
    stdout: str
    stderr: str


def planish(
    commands: Sequence[Sequence[str | Path]], folder: Path, environment: Mapping[str, str], python: str = sys.executable
) -> list[Done]:
    """Run some commands in a folder."""
    arguments = json.dumps([[str(word) for word in command] for command in commands])
    ran = subprocess.run(
        [python, "-c", _PROGRAM, arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return [Done(*row) for row in json.loads(ran.stdout.splitlines()[-1])]
