"""What one build takes from earlier ones, and leaves for later ones."""

import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...ir.errors import UsageError
from ..page.history import History
from ..provenance import digest
from ..recipe import Recipe
from ..reporter import Reporter
from ..results import PassRow
from ..timings import Timings
from .builds import Built, find_build, keep_build, recall_recipe, remember_recipe
from .inputs import files_beside, inputs
from .keys import job_key, key, recipe_key, step_keys
from .steps import KeptSteps, Parcel, packed, unpack
from .store import Store
from .values import KeptValues

if TYPE_CHECKING:
    from ..job import Job

_OPENED_UNSEEN = frozenset((".arrow", ".data", ".gguf", ".onnx", ".parquet", ".safetensors"))
"""Files that libraries open by themselves, so that Python doesn't tell of it."""


class BuildCache:
    """What one build takes from earlier ones, and leaves for later ones.

    Args:
        recipe: the recipe of the build.
        scratch: a folder for files of an earlier build.
        reporter: the reporter that is warned where nothing can be kept, which no build fails for.
        is_fresh: whether nothing is taken from earlier builds.
        keeps: whether anything is left for later ones.
    """

    def __init__(
        self, recipe: Recipe, scratch: Path, reporter: Reporter, *, is_fresh: bool, keeps: bool = True
    ) -> None:
        self._recipe = recipe
        self._scratch = scratch
        self._reporter = reporter
        self._is_fresh = is_fresh
        self._store: Store | None = None
        self._base = ""
        with self._if_possible():
            self._store = Store.of_user() if keeps else None

    @property
    def checkpoints(self) -> Path | None:
        """A folder of checkpoints that passes go on from; None where nothing is kept, or taken from earlier builds."""
        return None if self._store is None or self._is_fresh else self._store.checkpoints

    def recall(self) -> Built | None:
        """The last build of the recipe, if nothing that it read has changed."""
        if self._store is None or self._is_fresh:
            return None
        build = recall_recipe(self._store, recipe_key(self._recipe))
        return None if build is None else find_build(self._store, build, self._recipe, self._scratch)

    def find(self, job: "Job") -> Built | None:
        """A build of the same model by the same passes with the same data."""
        if self._store is None:
            return None
        self._base = job_key(job)
        return None if self._is_fresh else find_build(self._store, self._key(job), self._recipe, self._scratch)

    def steps(
        self, job: "Job", rows: Callable[[], Sequence[PassRow]], history: History, timings: Timings
    ) -> KeptSteps | None:
        """The instrument that keeps and finds graphs after steps of the pipeline; None where nothing is kept."""
        if self._store is None:
            return None
        keys = step_keys(self._base, job.passes, self._recipe.folder)
        return KeptSteps(
            self._store, keys, job.passes, rows, history, timings, self._if_possible, is_fresh=self._is_fresh
        )

    def values(self, job: "Job", done: int) -> KeptValues | None:
        """The instrument that keeps the arrays of passes after some steps; None where nothing is kept, or taken."""
        if self.checkpoints is None:
            return None
        keys = [self._base, *step_keys(self._base, job.passes, self._recipe.folder)]
        return KeptValues(self.checkpoints, keys, done)

    def packed(self, job: "Job") -> Parcel | None:
        """The graph after the last step, for another machine's cache; None if it isn't kept."""
        return None if self._store is None else packed(self._store, self._last(job))

    def unpack(self, job: "Job", parcel: Parcel) -> None:
        """Keep the graph after the last step that another machine has made."""
        if self._store is not None:
            with self._if_possible():
                unpack(self._store, self._last(job), parcel)

    def keep(self, job: "Job", built: Built) -> None:
        """Keep a build, and erase what was asked for least recently beyond the store's bound."""
        if self._store is not None:
            with self._if_possible():
                keep_build(self._store, self._key(job), built)
                self._store.trim()

    def remember(self, job: "Job", paths: Iterable[str]) -> None:
        """Keep which files and folders the recipe's build has read."""
        if self._store is None:
            return
        beside = (path for path in files_beside(self._recipe.folder) if Path(path).suffix in _OPENED_UNSEEN)
        modules = (file for it in list(sys.modules.values()) if isinstance(file := getattr(it, "__file__", None), str))
        recipe = str(Path(self._recipe.name).absolute())  # whose budget may change
        read = inputs({*paths, *beside, *modules} - {recipe})
        with self._if_possible():
            remember_recipe(self._store, recipe_key(self._recipe), read, self._key(job))

    @contextmanager
    def _if_possible(self) -> Generator[None]:
        """Give up keeping anything, and say so, where a folder or a disk doesn't let it."""
        try:
            yield
        except UsageError as error:
            self._store = None
            self._reporter.warn(f"nothing of this build is kept for later ones: {error}")

    def _key(self, job: "Job") -> str:
        judged = [digest(job.evaluation)] if job.is_trial else []
        return key("build", [self._base, *judged, *step_keys(self._base, job.passes, self._recipe.folder)[-1:]])

    def _last(self, job: "Job") -> str:
        return step_keys(self._base, job.passes, self._recipe.folder)[-1]
