"""Pages of the documentation, followed to the letter; `python tests/followed.py PAGE...` renews what they show.

With `--check` it prints instead what a page shows otherwise, and ends with 1 if there is something.

A block of code with a title is a file, one of `console` a list of commands behind `$ ` with what they print below. They
are taken in the order of the page, in one folder. Numbers, latencies, columns and names of temporary files vary from
run to run, so these are not compared, and `…` in a page stands for any text: on a line of its own, for any lines. What
comes behind `<!-- not run: REASON -->` is neither written nor run.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
_BLOCK = re.compile(r'(?ms)^(?:<!-- not run: ([^\n]+) -->\n+)?```(\w*)(?: title="([^"\n]+)")?\n(.*?)^```$')
_COMMAND = re.compile(r"^\$ (.*(?:\\\n.*)*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code of a page.

    Attributes:
        language: the word behind the fence.
        title: the name of the file that it is; empty where it is none.
        text: the text between the fences.
        reason: why it isn't run; empty where it is.
    """

    language: str
    title: str
    text: str
    reason: str

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Each command, and what it prints."""
        return _COMMAND.findall(self.text)


def blocks(page: Path) -> list[Block]:
    """The blocks of code of a page, in order."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(language, title, text, reason) for reason, language, title, text in found]


def follow(page: Path, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Write a page's files and run its commands in a folder: each command, what the page shows, and what it printed."""
    for block in blocks(page):
        if block.reason:
            continue
        if block.title:
            (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "console":
            for command, shown in block.commands:
                yield command, shown, printed(command, folder)


def printed(command: str, folder: Path) -> str:
    """What a command prints, on either stream."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    cache = str(folder / ".cache")  # builds tell what they know from earlier ones
    ours = {"PATH": path, "PLANISH_CACHE": cache, "PLANISH_CACHE_SIZE": "1GB", "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {**os.environ, **ours, "NO_COLOR": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    ran = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, check=False, **streams)
    return "".join(f"{line.rstrip()}\n" for line in ran.stdout.decode().splitlines())


def agrees(shown: str, printed: str) -> bool:
    """Whether a command printed what the page shows, but for what varies."""
    pattern = re.escape(_constant(shown))
    pattern = re.sub(r"(?m)^…\n", "(?:.*\\\\n)*?", pattern.replace("\\\n", "\n"))
    return re.fullmatch(pattern.replace("…", ".*").replace("\\ ", " "), _constant(printed)) is not None


def _constant(text: str) -> str:
    """A text without numbers and their units, widths of columns, names of temporary folders, and what speed decides."""
    text = re.sub(r"/tmp/[\w./-]+", "/tmp", text)
    text = re.sub(r"(?m)^latency.*", "latency", text)
    text = re.sub(r"(?m)^warning: the artifact is slower.*\n", "", text)
    text = re.sub(r"[+-]?\b\d[\d.,]*(e[+-]?\d+)?( ?([µm]s|s|min|[kMG]?B|[kMG])\b)?", "0", text)
    return re.sub(r"[ \t━─-]{2,}", " ", text)


def renewed(page: Path, folder: Path) -> str:
    """A page's text with what its commands print now; what is the same with parts left out stays."""
    text, position = page.read_text(encoding="utf-8"), 0
    for command, shown, found in follow(page, folder):
        old, new = f"$ {command}\n{shown}", f"$ {command}\n{found}"
        position = text.index(old, position)
        if "…" not in shown or not agrees(shown, found):
            text = text[:position] + new + text[position + len(old) :]
        position += 1
    return text


def differences(page: Path, folder: Path) -> Iterator[str]:
    """What a page's commands print otherwise than it shows, as lines of a diff."""
    for command, shown, found in follow(page, folder):
        if not agrees(shown, found):
            yield from (f"$ {command}", *unified_diff(shown.splitlines(), found.splitlines(), lineterm="", n=1))


if __name__ == "__main__":
    pages, differs = [Path(name) for name in sys.argv[1:] if name != "--check"], False
    for name in pages:
        scratch = Path(tempfile.mkdtemp(prefix="followed-"))
        try:
            if "--check" in sys.argv:
                for line in differences(name, scratch):
                    differs = True
                    print(line)
            else:
                name.write_text(renewed(name, scratch), encoding="utf-8")
        finally:
            shutil.rmtree(scratch)
    sys.exit(differs)
