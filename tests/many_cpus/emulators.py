"""Where a library can be run: on the machine at hand, or in an emulator that has all that its instructions need."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import planish
from planish.targets.cpu import architecture

from .descriptions import parse
from .machine_code import X86_FLAGS

_PYTHON = frozenset(("pni", "ssse3", "sse4_1", "sse4_2", "popcnt", "cx16", "lahf_lm"))
"""What numpy asks of an x86 machine, whatever is run."""
_LIBRARY = (("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2"),)
"""The C library takes it that what has AVX2 has BMI as well; it is to do without."""


@dataclass(frozen=True, slots=True)
class Runner:
    """A command that runs Python, and how.

    Attributes:
        name: the runner's name for people.
        command: the words in front of Python's arguments.
        path: the folders where Python finds packages, besides its own.
        variables: the variables to set in the environment.
    """

    name: str
    command: tuple[str, ...]
    path: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()

    def run(self, script: Path, arguments: Sequence[str], cpuinfo: Path) -> str:
        """What went wrong, or nothing.

        Args:
            script: the Python script.
            arguments: the script's arguments.
            cpuinfo: a file that describes the CPU which planish is to take the machine for.
        """
        with TemporaryDirectory(prefix="planish-") as folder:  # where the package is found by its name
            (Path(folder) / "planish").symlink_to(Path(planish.__file__).resolve().parent)
            paths = {"PLANISH_CPUINFO": str(cpuinfo), "PYTHONPATH": os.pathsep.join([folder, *self.path])}
            command = [*self.command, str(script), *arguments]
            environment = {**os.environ, **dict(self.variables), **paths}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if not done.returncode:
            return ""
        lines = [line for line in done.stderr.splitlines() if line.strip() and "warning: TCG" not in line]
        return f"exit code {done.returncode}: {lines[-1] if lines else 'no message'}"


@dataclass(frozen=True, slots=True)
class Emulators:
    """The emulators at hand.

    Attributes:
        x86: the path of `qemu-x86_64`.
        aarch64: the path of `qemu-aarch64`.
        root: a folder with Python for AArch64 in `usr/bin` and its packages in `site`.
    """

    x86: str | None = None
    aarch64: str | None = None
    root: Path | None = None

    @classmethod
    def found(cls, root: Path | None) -> "Emulators":
        return cls(shutil.which("qemu-x86_64"), shutil.which("qemu-aarch64"), root)

    def runner(self, wanted: str, used: frozenset[str], flags: frozenset[str]) -> Runner | str:
        """What runs libraries, or why nothing does.

        Args:
            wanted: the architecture.
            used: the flags that the libraries' instructions need.
            flags: the flags that their machine has; an emulator has no others, as far as it can leave them out.
        """
        emulated = self._x86(used, flags) if wanted == "x86_64" else self._aarch64(used)
        if isinstance(emulated, Runner) or wanted != architecture():
            return emulated
        here = parse("here", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        if here is None or used - here.flags:
            return (
                f"{emulated}, and this machine lacks "
                f"{', '.join(sorted(used - here.flags)) if here else 'a description'}"
            )
        return Runner("this machine", (sys.executable,))

    def _x86(self, used: frozenset[str], flags: frozenset[str]) -> Runner | str:
        if self.x86 is None:
            return "there is no qemu-x86_64"
        known = _x86_words(self.x86)
        lacking = sorted(flag for flag in used if not _has(self.x86, flag, known.get(flag, flag)))
        if lacking:
            return f"the emulator lacks {', '.join(lacking)}"
        hidden = sorted(known[flag] for flag in X86_FLAGS & known.keys() - flags - _PYTHON)
        cpu = ",".join(("max", *(f"-{word}" for word in hidden)))
        return Runner("emulator", (self.x86, "-cpu", cpu, sys.executable), variables=_LIBRARY)

    def _aarch64(self, used: frozenset[str]) -> Runner | str:
        if self.aarch64 is None or self.root is None:
            return "there is no qemu-aarch64" if self.aarch64 is None else "there is no root with Python for AArch64"
        cpus = _aarch64_cpus(self.aarch64, self.root)
        fitting = [name for name, flags in cpus.items() if used <= flags]
        if not fitting:
            return f"no emulated CPU has all of {', '.join(sorted(used))}"
        least = min(fitting, key=lambda name: (len(cpus[name]), name))
        return Runner(f"emulated {least}", _python(self.aarch64, least, self.root), (str(self.root / "site"),))


@cache
def _x86_words(emulator: str) -> Mapping[str, str]:
    """The emulator's names of flags, by Linux's."""
    listed = subprocess.run([emulator, "-cpu", "help"], capture_output=True, text=True, check=False).stdout
    words = listed.partition("Recognized CPUID flags:")[2].split()
    return {re.sub(r"[-.]", "_", word): word for word in words}


@cache
def _has(emulator: str, flag: str, word: str) -> bool:
    command = [emulator, "-cpu", f"max,+{word},enforce", shutil.which("true") or "true"]
    return flag in X86_FLAGS and not subprocess.run(command, capture_output=True, check=False).returncode


@cache
def _aarch64_cpus(emulator: str, root: Path) -> Mapping[str, frozenset[str]]:
    """The flags of each CPU that is emulated."""
    listed = subprocess.run([emulator, "-cpu", "help"], capture_output=True, text=True, check=False).stdout
    found: dict[str, frozenset[str]] = {}
    for name in listed.split(":")[1].split():
        command = [*_python(emulator, name, root), "-c", "print(open('/proc/cpuinfo').read())"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if (cpu := parse(name, done.stdout)) is not None:
            found[name] = cpu.flags
    return found


def _python(emulator: str, cpu: str, root: Path) -> tuple[str, ...]:
    pythons = sorted(
        path for path in (root / "usr" / "bin").glob("python3*") if re.fullmatch(r"python3(\.\d+)?", path.name)
    )
    return (emulator, "-cpu", cpu, "-L", str(root), str(pythons[-1]))
