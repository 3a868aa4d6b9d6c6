"""Commands around a release: `planish search`, `compare` as its gate, `diff`, `report`, `verify`, `cache` and more."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Data, Json, MaxDrop, TargetName
from .output import console, examples, list_entries, print_json, show, verbosity

EXAMPLES = {
    "search": examples(
        "planish search recipe.yaml -o fastest.yaml", "planish search recipe.yaml --minutes 15 --set search.goal=size"
    ),
    "compare": examples(
        "planish compare model.onnx dist -d data.npz",
        "planish compare released dist -d data.npz --max-drop 0.5% --max-slower 5% --junit gate.xml",
    ),
    "diff": examples(
        "planish diff old.onnx new.onnx",
        "planish diff model.py:build dist -d data.npz --html diff.html",
    ),
    "recipe_schema": examples("planish recipe-schema > recipe.schema.json"),
    "report": examples("planish report dist", "planish report dist --open", "planish report dist -o report.html"),
    "verify": examples(
        "planish verify dist",
        "planish verify dist --key release.key",
        "planish verify dist --signature dist.sig --public-key release.pub",
        "planish verify dist --rebuild",
    ),
    "attest": examples(
        "planish attest dist --provenance dist.intoto.json --bom dist.cdx.json",
        "planish attest dist --signature dist.sig --private-key release.pem",
    ),
    "cache": examples("planish cache", "planish cache --prune 1GB", "planish cache --prune 0"),
}
"""What stands below the help of each command, by its name."""


def search(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="a recipe with evaluation data and a metric budget")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="file for the chosen plan's recipe")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="time limit instead of the recipe's")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="change a value of the recipe, as in search.goal=size"),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(help="what runs passes: processes://COUNT, dask://HOST:PORT, ray://HOST:PORT or ray://"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Look for the techniques, their settings and their order that make a model fastest within a budget.

    What a recipe's `search` lists is tried behind its `passes`, for an hour unless it says
    otherwise. The chosen plan is judged on every other batch of
    the evaluation data, which had no part in the choice. A search that was ended goes on where it was.
    """
    from ..ir.errors import UsageError
    from .recipe_file import read_recipe
    from .report import ConsoleReporter, search_table
    from .search import search as look
    from .search import write_plan

    chosen = read_recipe(Path(recipe), settings=settings or [])
    if output is not None and output.absolute().parent != chosen.folder.absolute():
        raise UsageError(f"{output} must lie beside {recipe}, whose paths are relative to its folder")
    reporter = ConsoleReporter(console(), verbosity())
    with reporter.live():
        found = look(chosen, reporter, minutes, executor)
    show([search_table(found)], found.summary() if as_json else None)
    if output is not None:
        write_plan(chosen, found, output)
        typer.echo(f"wrote {output}: planish build {output}", err=True)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="an artifact's folder, or a model")],
    b: Annotated[str, typer.Argument(metavar="B", help="another folder or model")],
    data: Data = None,
    metric: Annotated[str, typer.Option(help="the metric, evaluated where the data have labels")] = "accuracy",
    max_drop: MaxDrop = None,
    min_cosine: Annotated[
        float | None, typer.Option(max=1, help="the least cosine similarity of A's outputs and B's")
    ] = None,
    max_slower: Annotated[str | None, typer.Option(help="how much slower B may be than A, such as 5%")] = None,
    max_larger: Annotated[
        str | None, typer.Option(help="how much larger B's files may be than A's, such as 10%")
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="a test case for each bound, as XML")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="a table for a pull request's comment")] = None,
    target: TargetName = "native",
    as_json: Json = False,
) -> None:
    """Show how far two models are apart, in their outputs, metric, size and latency.

    With bounds it is a gate of a release: the exit code is 5 where B misses one.
    """
    from ..ir.files import write_text
    from . import gate as gates
    from .comparison import compare as set_against
    from .report import comparison_tables, gate_table
    from .results import plain

    gate = gates.Gate.of(max_drop, min_cosine, max_slower, max_larger)
    comparison = set_against(a, b, target, data, metric)
    checks, sufficient = gate.checks(comparison), gate.sufficient_samples(comparison)
    told = {**plain(comparison), "gate": plain(checks), "sufficient_samples": sufficient} if as_json else None
    show((*comparison_tables(comparison), *gate_table(checks, comparison, sufficient)), told)
    for path, text in (
        (junit, gates.junit(checks, f"{b} against {a}")),
        (markdown, gates.markdown(checks, comparison)),
    ):
        if path is not None:
            write_text(path, text)
    gate.check(comparison)


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="a model, or the folder of an artifact of ONNX Runtime")],
    b: Annotated[str, typer.Argument(metavar="B", help="another model or folder")],
    data: Data = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="a page with both graphs, which is one file")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show in what two models differ, node by node.

    Nodes are aligned by names, places in your model and structure; then attributes, types, weights, and the outputs on
    the same inputs are compared.
    """
    from ..ir.files import write_text
    from .diff.differences import diff as set_against
    from .diff.page import diff_data, diff_page
    from .report import difference_tables

    found = set_against(a, b, data)
    if html is not None:
        write_text(html, diff_page(found))
    show(difference_tables(found), diff_data(found) if as_json else None)


def verify(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="an artifact's folder")],
    key: Annotated[
        Path | None, typer.Option("--key", metavar="KEYFILE", help="file whose bytes the artifact must be signed with")
    ] = None,
    signature: Annotated[
        Path | None, typer.Option(metavar="FILE", help="signature of its files, by `planish attest` or OpenSSF's tools")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(metavar="PEMFILE", help="elliptic curve key that --signature must be made with")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="build it again from its recipe and its times, and compare each file")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="recipe's folder, for --rebuild; else where the artifact is")
    ] = None,
    as_json: Json = False,
) -> None:
    """Hold an artifact to its manifest, byte by byte; exit code 4 if anything has changed since it was built.

    With --rebuild it is built once more from the recipe in its manifest, and held to what comes of it.
    """
    from ..ir.errors import CheckError
    from .build import read_key
    from .integrity import check_integrity
    from .rebuild import differences
    from .report import ConsoleReporter
    from .signing import fault_of, paired

    pair = paired(signature, public_key, "--public-key")
    found = check_integrity(artifact, None if key is None else read_key(key))
    faults = [*found.faults]
    if pair is not None and (fault := fault_of(artifact, *pair)):
        faults.append(fault)
    if rebuild and not faults:
        reporter = ConsoleReporter(console(), verbosity())
        with reporter.live():
            faults += differences(artifact, artifact.absolute().parent if folder is None else folder, reporter)
    if as_json:
        print_json(
            {"files": found.files, "signature": signature and str(signature), "rebuilt": rebuild, "faults": faults}
        )
    if faults:
        raise CheckError("; ".join(faults))
    signed = f", {signature} signs them" if pair is not None else ""
    again = ", and building it again gave the same" if rebuild else ""
    typer.echo(f"{artifact}: all {found.files} files are as they were built{signed}{again}", err=True)


def attest(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="an artifact's folder")],
    provenance: Annotated[
        Path | None, typer.Option(metavar="FILE", help="how it was built: in-toto's statement, with SLSA's provenance")
    ] = None,
    bom: Annotated[
        Path | None, typer.Option(metavar="FILE", help="what it holds and was made of: CycloneDX's bill of materials")
    ] = None,
    signature: Annotated[
        Path | None, typer.Option(metavar="FILE", help="signature of its files, in OpenSSF's format for models")
    ] = None,
    private_key: Annotated[
        Path | None, typer.Option(metavar="PEMFILE", help="elliptic curve key to make --signature with")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="KEYFILE", help="file whose bytes the artifact must be signed with")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write where an artifact comes from in the formats of supply chain tools, by its manifest and measurements.

    The artifact is held to its manifest first (exit code 4 if anything has changed since it was built).
    """
    from ..ir.errors import UsageError
    from ..ir.files import write_text
    from .attestation import Attested, bill_of_materials
    from .attestation import provenance as statement
    from .build import read_key
    from .signing import paired, sign

    wanted = [(path, make) for path, make in ((provenance, statement), (bom, bill_of_materials)) if path is not None]
    pair = paired(signature, private_key, "--private-key")
    if not wanted and pair is None and not as_json:
        raise UsageError("name what to write: --provenance FILE, --bom FILE or --signature FILE")
    for path in (provenance, bom, signature):
        if path is not None and path.absolute().parent == artifact.absolute():
            raise UsageError(f"{path} would be no part of the artifact: write it beside the folder")
    found = Attested.read(artifact, None if key is None else read_key(key))
    if as_json:
        print_json({"provenance": statement(found), "bom": bill_of_materials(found)})
    for path, make in wanted:
        write_text(path, json.dumps(make(found), indent=2) + "\n")
        typer.echo(f"wrote {path}", err=True)
    if pair is not None:
        sign(artifact, *pair)
        typer.echo(f"wrote {signature}", err=True)


def report(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="an artifact's folder")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="write the page anew, from the artifact's data"),
    ] = None,
    is_opened: Annotated[bool, typer.Option("--open", help="show the page in the browser")] = False,
    as_json: Json = False,
) -> None:
    """Tell where the page of a build's results is, `report.html`, or write it anew.

    It is one file that needs no network: the verdict, what each pass gave, the graph after each, layers, and what was
    not checked.
    """
    from ..backends.manifest import REPORT
    from ..ir.errors import UsageError
    from ..ir.files import write_text
    from .page.page import page_of, read_page

    if output is not None:
        write_text(output, page_of(artifact))
    place = artifact / REPORT if output is None else output
    if as_json:
        print_json(read_page(artifact))
        return
    if not place.exists():
        raise UsageError(f"{artifact} has no {REPORT}: -o FILE writes one, without the graph")
    if is_opened:
        typer.launch(str(place))
    typer.echo(place)


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


def recipe_schema() -> None:
    """Print the JSON Schema of recipes, by which editors complete and check them.

    Name it in a recipe's first line: `# yaml-language-server: $schema=recipe.schema.json`.
    """
    from .recipe_schema import recipe_schema as schema

    print_json(schema())
