"""Gates of a release: bounds on how far a model may be from another one, and what became of each."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from ..ir.errors import BudgetError, UsageError
from ..passes.units import PARTS, parse, show_bytes
from .comparison import Comparison

_ONE_SIDED, _TWO_SIDED = 1.645, 1.960
"""Standard deviations that 95 % of a normal distribution lie below, and within."""


@dataclass(frozen=True, slots=True)
class Check:
    """A bound, and what was found.

    Attributes:
        name: the name of what is bounded.
        bound: the bound, in words.
        found: what was found, in words.
        is_met: whether what was found is within the bound.
    """

    name: str
    bound: str
    found: str
    is_met: bool

    def __str__(self) -> str:
        return f"the {self.name} is {self.found}, but must be {self.bound}"


@dataclass(frozen=True, slots=True)
class Gate:
    """How far B may be from A; what is None isn't bounded.

    Attributes:
        max_drop: the largest drop of the metric, on its own scale.
        min_cosine: the least cosine similarity between an output of A and the same output of B.
        max_slower: the share of A's latency by which B may be slower; missed where three rounds of four are slower
            by more.
        max_larger: the share of A's size by which B may be larger.
    """

    max_drop: float | None = None
    min_cosine: float | None = None
    max_slower: float | None = None
    max_larger: float | None = None

    @classmethod
    def of(
        cls,
        max_drop: str | None = None,
        min_cosine: float | None = None,
        max_slower: str | None = None,
        max_larger: str | None = None,
    ) -> "Gate":
        """The gate that flags ask for, with shares such as `5%`.

        Raises:
            UsageError: one is no share.
        """
        return cls(
            _share("max-drop", max_drop),
            min_cosine,
            _share("max-slower", max_slower),
            _share("max-larger", max_larger),
        )

    def checks(self, comparison: Comparison) -> list[Check]:
        """What became of each bound.

        Raises:
            UsageError: the metric is bounded, and there are no labels to compute it on.
        """
        return list(self._checks(comparison))

    def check(self, comparison: Comparison) -> None:
        """Hold a comparison to the bounds.

        Raises:
            BudgetError: it misses some; all that are missed are told.
            UsageError: the metric is bounded, and there are no labels to compute it on.
        """
        if missed := [str(it) for it in self._checks(comparison) if not it.is_met]:
            raise BudgetError(f"{comparison.b.name} is too far from {comparison.a.name}: {'; '.join(missed)}")

    def _checks(self, comparison: Comparison) -> Iterator[Check]:
        if self.max_drop is not None:
            if comparison.drop is None:
                raise UsageError("a bound on the metric's drop needs data with labels, or --metric agreement: -d DATA")
            interval = comparison.drop_interval
            found = f"{comparison.drop:.4f}" + ("" if interval is None else " ({:.4f} to {:.4f})".format(*interval))
            is_met = comparison.drop <= self.max_drop + 1e-9
            yield Check(f"drop of {comparison.metric}", f"{self.max_drop:g} at most", found, is_met)
        if (least := self.min_cosine) is not None:
            for output in comparison.outputs:
                found = f"{output.cosine:.6f}"
                yield Check(f"cosine of {output.name}", f"{least:g} at least", found, output.cosine >= least)
            for name in comparison.unlike:
                yield Check(
                    f"cosine of {name}", f"{least:g} at least", "none, since its shape is another", is_met=False
                )
        if self.max_slower is not None:
            slower = comparison.speedup.inverse
            is_met = slower.lower <= 1 + self.max_slower
            yield Check("latency", f"{1 + self.max_slower:.4g} times A's at most", f"{slower} of A's", is_met)
        if self.max_larger is not None:
            larger = 1 / comparison.shrinkage
            sizes = f"{larger:.4f} times A's, {show_bytes(comparison.b.size)}"
            yield Check("size", f"{1 + self.max_larger:.4g} times A's at most", sizes, larger <= 1 + self.max_larger)

    def sufficient_samples(self, comparison: Comparison) -> int | None:
        """How many samples it takes to find a model that is worse by twice the bound in 95 of 100 cases.

        The variance of the drop that is found is that of a single sample, over the number of samples. A sample's is the
        share of samples that only one of the models gets right, which is no less than the true drop. Drops are counts
        over the number of samples, for which half of one is added (Yates's correction for continuity).

        Returns:
            The number; None where the metric isn't bounded, or single samples say nothing of how it scatters.
        """
        bound = self.max_drop
        if not bound or not comparison.samples:
            return None
        if comparison.flips is not None:
            variance = max(sum(comparison.flips) / comparison.samples, 2 * bound)
        elif comparison.drop_interval is not None:
            low, high = comparison.drop_interval
            variance = comparison.samples * ((high - low) / (2 * _TWO_SIDED)) ** 2
        else:
            return None
        reach = _ONE_SIDED * math.sqrt(variance)  # n is the least with: bound * n - 1/2 = reach * sqrt(n)
        return math.ceil(((reach + math.sqrt(reach**2 + 2 * bound)) / (2 * bound)) ** 2)


def junit(checks: Sequence[Check], name: str) -> str:
    """Checks as the JUnit XML that continuous integration reads, a test case for each bound."""
    failures = sum(not it.is_met for it in checks)
    suite = ET.Element("testsuite", name=name, tests=str(len(checks)), failures=str(failures), errors="0")
    for it in checks:
        case = ET.SubElement(suite, "testcase", classname="planish.compare", name=it.name)
        if not it.is_met:
            ET.SubElement(case, "failure", message=str(it))
    ET.indent(suite)
    return ET.tostring(suite, "unicode", xml_declaration=True) + "\n"


def markdown(checks: Sequence[Check], comparison: Comparison) -> str:
    """Checks as a table for the comment on a pull request."""
    is_met = all(it.is_met for it in checks)
    verdict = "within all bounds" if is_met else f"beyond {sum(not it.is_met for it in checks)} of {len(checks)} bounds"
    rows = [f"| {it.name} | {it.found} | {it.bound} | {'yes' if it.is_met else '**no**'} |" for it in checks]
    head = [f"**{comparison.b.name}** against {comparison.a.name}: {verdict}", ""]
    return "\n".join([*head, "| | found | bound | met |", "|-|-|-|-|", *rows, ""])


def _share(name: str, text: str | None) -> float | None:
    try:
        return None if text is None else parse(text, PARTS)
    except ValueError as error:
        raise UsageError(f"--{name}: {error}") from error
