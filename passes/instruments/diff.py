"""Unified diffs, as `patch` reads them, of texts of tens of thousands of lines.

`difflib` alone compares the lines of all places with each other: half a minute for 20,000 of which every third has
changed. In a graph's text most lines stand once, as each has the name of a value. So lines that stand once in both
texts are matched first, and then equal lines around them: patience diff, of Bram Cohen.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import Match, SequenceMatcher


def unified_diff(before: Sequence[str], after: Sequence[str], head: Sequence[str]) -> Iterator[str]:
    """The lines of a diff; none where nothing differs.

    Args:
        before: the lines of one text, with their ends.
        after: the lines of the other text, likewise.
        head: what the diff calls the two texts.
    """
    for number, group in enumerate(_Patience(before, after).get_grouped_opcodes()):
        if not number:
            yield from (f"{mark} {name}\n" for mark, name in zip(("---", "+++"), head, strict=True))
        (_, start, _, new_start, _), (*_, end, _, new_end) = group[0], group[-1]
        yield f"@@ -{_range(start, end)} +{_range(new_start, new_end)} @@\n"
        for kind, first, last, new_first, new_last in group:
            if kind == "equal":
                yield from (f" {line}" for line in before[first:last])
            else:
                yield from (f"-{line}" for line in before[first:last])
                yield from (f"+{line}" for line in after[new_first:new_last])


def _range(start: int, end: int) -> str:
    """Lines as a hunk's head counts them: from 1, or those behind which an empty range stands."""
    return f"{start + (end > start)},{end - start}"


class _Patience(SequenceMatcher[str]):
    """Finds equal stretches by the lines that stand once."""

    def __init__(self, before: Sequence[str], after: Sequence[str]) -> None:
        super().__init__()
        self._before = before
        self._after = after

    def get_matching_blocks(self) -> list[Match]:
        before, after = self._before, self._after
        found: list[Match] = []
        end, new_end = 0, 0
        for place, new_place in ((0, 0), *_anchors(before, after), (len(before), len(after))):
            if place < end:  # within the block before
                continue
            start, new_start = place, new_place
            while start > end and new_start > new_end and before[start - 1] == after[new_start - 1]:
                start, new_start = start - 1, new_start - 1
            end, new_end = place, new_place
            while end < len(before) and new_end < len(after) and before[end] == after[new_end]:
                end, new_end = end + 1, new_end + 1
            found.append(Match(start, new_start, end - start))
        return [*found, Match(len(before), len(after), 0)]


def _anchors(before: Sequence[str], after: Sequence[str]) -> Sequence[tuple[int, int]]:
    """The places of lines that stand once in both texts, in the same order: the longest increasing subsequence."""
    counts, new_counts = Counter(before), Counter(after)
    places = {line: place for place, line in enumerate(after) if new_counts[line] == counts[line] == 1}
    pairs = [(place, places[line]) for place, line in enumerate(before) if line in places]
    ends: list[int] = []  # in the new text, the lowest that a row of each length can end with
    holders: list[int] = []  # the numbers of these pairs
    earlier: list[int] = []  # for each pair, the number of the one before it in its row
    for number, (_, new_place) in enumerate(pairs):
        length = bisect_left(ends, new_place)
        earlier.append(holders[length - 1] if length else -1)
        ends[length : length + 1] = [new_place]
        holders[length : length + 1] = [number]
    row: list[tuple[int, int]] = []
    number = holders[-1] if holders else -1
    while number >= 0:
        row.append(pairs[number])
        number = earlier[number]
    return row[::-1]
