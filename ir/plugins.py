"""What other packages add: entry points, read when a name isn't planish's own and loaded when it is used.

The groups are `planish.passes`, `planish.operators`, `planish.targets`, `planish.backends`, `planish.metrics` and
`planish.instruments`. An entry's name is that by which users ask for it; one of planish's own comes before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from .errors import UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


@dataclass(frozen=True, slots=True)
class Plugin:
    """Something that another package adds.

    Attributes:
        entry: the entry point, which says where the object is.
        package: the name and version of the package that brings it.
    """

    entry: "EntryPoint"
    package: str

    def load(self) -> Any:
        """The object itself; its module is imported.

        Raises:
            UsageError: that fails, or there is no such object; the package is named.
        """
        try:
            return self.entry.load()
        except Exception as error:  # whatever importing it raises
            raise self.fault(f"can't be loaded: {type(error).__name__}: {error}") from error

    def fault(self, reason: str) -> UsageError:
        """An error that says what of which package is wrong, and why."""
        what = f"{self.entry.name!r} in {self.entry.group}, of the package {self.package} ({self.entry.value}),"
        return UsageError(f"the entry point {what} {reason}; mend or uninstall that package")


@cache
def plugins(group: str) -> Mapping[str, Plugin]:
    """What other packages add to a group, by name; nothing is loaded.

    Args:
        group: the group's name, such as `passes`.

    Raises:
        UsageError: two packages bring the same name.
    """
    from importlib.metadata import entry_points  # as slow to import as all else that `--help` needs

    found: dict[str, Plugin] = {}
    for entry in entry_points(group=f"planish.{group}"):
        plugin = Plugin(entry, "unknown" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}")
        if entry.name in found:
            raise plugin.fault(f"has the name of one of {found[entry.name].package}")
        found[entry.name] = plugin
    return dict(sorted(found.items()))
