"""The file of what `planish tune` has measured: the fastest parameters for each target and kernel.

The file is JSON with sorted keys, to be read, compared and kept beside a recipe. For sizes that are not in it, the
estimated time decides.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ....ir.drafts import replacing
from ....ir.errors import ModelError, UsageError
from ....ir.files import RefusedFileError, open_regular
from ....targets import Target
from ..relax.configs import Parameters, TuningPolicy, spelled


@dataclass(frozen=True, slots=True)
class TuningRecord:
    """The result of measuring a kernel.

    Attributes:
        kernel: the kernel's template and sizes.
        layer: the first layer that the kernel belongs to.
        share: the kernel's share of the time of all kernels that can be generated in several ways.
        estimated: the parameters of the least estimated time.
        fastest: the parameters that were measured to be the fastest.
        gain: the time with the estimated parameters over that with the fastest; 1 where they are the same.
    """

    kernel: str
    layer: str
    share: float
    estimated: Parameters
    fastest: Parameters
    gain: float


LONGEST = 1 << 22
"""The most bytes of a file; an entry takes some 300."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Entry(_Section):
    """The fastest parameters of a kernel of some sizes.

    Attributes:
        parameters: the fastest parameters.
        gain: the time with the parameters of the least estimated time over that with these.
    """

    parameters: Parameters
    gain: float = Field(gt=0)


class Database(_Section):
    """The measurements of kernels on targets.

    Attributes:
        format: the version of the file's format.
        targets: entries by what matters of a target, and then by kernel and sizes.
    """

    format: Literal[1] = 1
    targets: Mapping[str, Mapping[str, Entry]] = {}

    @property
    def digest(self) -> str:
        """A hash of the content."""
        return sha256(self._text.encode()).hexdigest()

    def of(self, target: Target) -> Mapping[str, Entry]:
        """Return what was measured on targets like this one."""
        return self.targets.get(_key(target), {})

    def choices(self, target: Target, source: str) -> TuningPolicy:
        return TuningPolicy({key: entry.parameters for key, entry in self.of(target).items()}, source)

    def having(self, target: Target, kernel: str, entry: Entry) -> "Database":
        """Return a copy with one more entry."""
        known = {**self.of(target), kernel: entry}
        return self.model_copy(update={"targets": {**self.targets, _key(target): known}})

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        with replacing(path) as draft:
            draft.write_text(self._text, encoding="utf-8")

    @property
    def _text(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"


def read_database(path: Path) -> Database:
    """Read a database from its file.

    Raises:
        UsageError: there is no such file.
        ModelError: it is broken, too long, or of a newer version.
    """
    if not path.is_file():
        raise UsageError(f"there is no database {path}: `planish tune` writes one")
    try:
        with open_regular(path) as file:
            content = file.read(LONGEST + 1)
        if len(content) > LONGEST:
            raise ModelError(f"{path} is longer than {LONGEST:,} bytes, which no database of `planish tune` is")
        return Database.model_validate_json(content)
    except RefusedFileError as error:
        raise UsageError(f"the database {path} can't be read: {error}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise ModelError(f"{path} is no database of `planish tune`: {place and f'{place}: '}{fault['msg']}") from None


def _key(target: Target) -> str:
    """Spell what matters of a target: the CPU that instructions are scheduled for, and what kernels know of it."""
    from ..kernels.machine import Machine  # asks LLVM

    return f"{target.mcpu} {spelled(Machine.of(target))}"
