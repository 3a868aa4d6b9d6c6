"""Commands about what builds leave behind: `planish verify` and `planish cache`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Json
from .output import examples, list_entries, print_json

EXAMPLES = {
    "verify": examples("planish verify dist", "planish verify dist --key release.key"),
    "cache": examples("planish cache", "planish cache --prune 1GB", "planish cache --prune 0"),
}
"""What stands below the help of each command, by its name."""


def verify(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="an artifact's folder")],
    key: Annotated[
        Path | None, typer.Option("--key", metavar="KEYFILE", help="whose bytes it has to be signed with")
    ] = None,
    as_json: Json = False,
) -> None:
    """Hold an artifact to its manifest, byte by byte; exit code 4 if anything has changed since it was built."""
    from ..ir.errors import CheckError
    from .build import read_key
    from .integrity import check_integrity

    found = check_integrity(artifact, None if key is None else read_key(key))
    if as_json:
        print_json({"files": found.files, "faults": list(found.faults)})
    if found.faults:
        raise CheckError("; ".join(found.faults))
    typer.echo(f"{artifact}: all {found.files} files are as they were built", err=True)


def cache(
    prune: Annotated[
        str | None, typer.Option(metavar="SIZE", help="erase what was used least recently beyond this size; 0 for all")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell what builds keep for later ones, where and how much of it, or erase some.

    PLANISH_CACHE names another folder; PLANISH_CACHE_SIZE is the most that is kept (10GB unless set, 0 for nothing).
    """
    from ..ir.cache_folder import cache_folder
    from ..passes import units
    from .cache.store import DEFAULT_SIZE, Store, parse_size

    store = Store.of_user() or Store(cache_folder("builds"), 0.0)
    erased = 0 if prune is None else store.trim(parse_size(prune, "--prune"))
    entries: dict[str, Any] = {"folder": str(store.folder), "bound": units.show_bytes(int(store.bound))}
    if store.bound == DEFAULT_SIZE:
        entries["bound"] += " (by default)"
    for kind, (number, size) in sorted(store.count().items()):
        entries[kind] = f"{number} files, {units.show_bytes(size)}"
    if prune is not None:
        entries["erased"] = units.show_bytes(erased)
    list_entries(entries, as_json)
