"""What the page says in words of an artifact's manifest and measurements: the verdict, and what was not checked."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from ...passes.base import Effect
from ...passes.units import show_bytes, show_seconds
from ..measurement import Ratio
from ..variables import escape
from ..words import at_sizes, faster, smaller


def verdict(manifest: Mapping[str, Any], measurements: Mapping[str, Any]) -> str:
    """What came out of a build, in one sentence."""
    built = measurements["built"]
    ratio = measurements["speedup"]
    speed = "not measured on this machine" if ratio is None else faster(Ratio(**ratio))
    size = smaller(measurements["size_ratio"])
    same = "as large as" if size == "the same" else f"{size} than"
    speed = "as fast and" if speed == "the same" else f"{speed} and"
    drop = measurements["metric_drop"]
    if drop is None:
        quality = "its metric was not evaluated"
    elif abs(drop) < 5e-5:
        quality = f"{measurements['metric']} stays {built['metric']:.4f}"
    else:
        interval = measurements["metric_drop_interval"]
        within = "" if interval is None else " (95 % between {:.4f} and {:.4f})".format(*interval)
        quality = f"{measurements['metric']} is {'worse' if drop > 0 else 'better'} by {abs(drop):.4f}{within}"
    budget = "; it is within its budget" if bounds(manifest, measurements) else ""
    return f"In {built['backend']} it is {speed} {same} the untouched model, and {quality}{budget}."


def bounds(manifest: Mapping[str, Any], measurements: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The bounds of the recipe's budget and gate: what is bounded, what was found, and how far it may go."""
    budget, built = manifest.get("recipe", {}).get("budget", {}), measurements["built"]
    drop, latency = measurements["metric_drop"], built["latency_seconds"]
    found: list[tuple[str, str, str]] = []
    if budget.get("metric_drop") is not None and drop is not None:
        found.append((f"drop of {measurements['metric']}", f"{drop:.4f}", f"{budget['metric_drop']:g} at most"))
    if budget.get("latency") is not None and latency is not None:
        found.append(("latency", show_seconds(latency), f"{show_seconds(budget['latency'])} at most"))
    if budget.get("size") is not None:
        found.append(("size", show_bytes(built["size_bytes"]), f"{show_bytes(budget['size'])} at most"))
    found += [(it["name"], it["found"], it["bound"]) for it in measurements.get("gate", [])]
    return found


def unchecked(manifest: Mapping[str, Any], measurements: Mapping[str, Any]) -> Iterator[str]:
    """Yield what nobody looked at, so that nobody takes it for granted, a sentence each."""
    recipe = manifest.get("recipe", {})
    data = manifest.get("data", {})
    level = recipe.get("verify", {}).get("level")
    if measurements["metric"] is None:
        yield "No metric was evaluated: the recipe names no evaluation data with labels."
    elif measurements["metric_drop_interval"] is None:
        yield "The metric's drop has no confidence interval: there are too few batches to resample."
    if measurements["metric"] is not None and recipe.get("budget", {}).get("metric_drop") is None:
        yield "No budget says how far the metric may fall."
    if data.get("calibration") is None:
        yield "There are no calibration data: graphs were compared on random inputs."
    if level == "none":
        yield "Nothing was checked after the passes: the recipe's level of verification is none."
    if level == "structure":
        yield "What the graph computes was not compared after the passes: the recipe checks its structure alone."
    if measurements["speedup"] is None:
        yield "It was built for another machine than the one at hand: it was neither run nor measured."
    if recipe.get("backend") not in ("auto", None):
        yield f"Only {recipe['backend']} was tried: the recipe names it."
    lossy = Effect.LOSSY.value
    changes = [row for row in measurements["passes"] if row["effect"] == lossy and any(row["counts"].values())]
    if measurements["metric"] is not None and any(row["metric"] is None for row in changes):
        yield "The metric was evaluated for the artifact, not after the passes, which a search has run."
    elif measurements["metric"] is not None and any(
        row["effect"] not in (None, lossy) for row in measurements["passes"]
    ):
        yield "The metric was evaluated for the artifact and after lossy passes, not after other passes."
    threads, where = measurements["threads"], at_sizes(measurements.get("sizes", {}))
    yield (
        f"Latency is that of one sample{where and f' ({where})'} with "
        f"{'1 thread' if threads == 1 else f'{threads} threads'} on the machine of the build; other "
        f"{'' if measurements.get('lengths') else 'sizes, '}threads and machines were not measured, nor was the memory "
        "that a run takes."
    )
    yield (
        "A build doesn't measure the sensitivity and error of layers, the time of single kernels, or the worst "
        "examples."
    )


def reproduction(manifest: Mapping[str, Any]) -> tuple[str, str]:
    """The recipe of an artifact as YAML, and the commands that build it again and hold it to the recipe."""
    recipe = {name: value for name, value in manifest.get("recipe", {}).items() if value not in (None, {}, [])}
    for name in ("budget", "data", "gate"):
        if isinstance(recipe.get(name), dict):
            recipe[name] = {key: value for key, value in recipe[name].items() if value is not None}
            if not recipe[name]:
                del recipe[name]
    text = yaml.safe_dump(escape(recipe), sort_keys=False, allow_unicode=True, width=100)
    return text, "planish build recipe.yaml --fresh -o dist\nplanish verify dist"
