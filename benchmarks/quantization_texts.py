"""Texts for language models: to calibrate on, and others to be judged on."""

import re
from importlib.util import find_spec
from pathlib import Path

TEXTS = ("news", "glosses", "manual")
"""What models are judged on."""
OTHERS = ("news", "sayings", "manual")
"""What they are calibrated on: texts of much the same kinds, and of other sources."""


def calibration(name: str, root: Path) -> str:
    """A text of `OTHERS`: Lee's background corpus of 300 news documents, the fortunes of Unix, or Perl's tutorials.

    Args:
        name: the name of the text.
        root: the folder where Debian's packages fortunes and perl-doc are unpacked.

    Raises:
        FileNotFoundError: a package isn't there.
    """
    if name == "news":
        return _gensim("lee_background.cor")
    if name == "sayings":
        files = [it for it in _found(root, "usr/share/games/fortunes/*") if it.is_file() and not it.suffix]
    else:
        files = _found(root, "usr/share/perl/*/pod/perl*tut.pod")
    return "\n".join(file.read_text() for file in files)


def evaluation(name: str, root: Path) -> str:
    """A text of `TEXTS`: Lee's 50 documents, the glosses of WordNet's nouns, or Python's tutorial.

    Args:
        name: the name of the text.
        root: the folder where Debian's packages wordnet-base and python3-doc are unpacked.

    Raises:
        FileNotFoundError: a package isn't there.
    """
    if name == "news":
        return _gensim("lee.cor")
    if name == "glosses":
        lines = _found(root, "usr/share/wordnet/data.noun")[0].read_text().splitlines()
        return "\n".join(line.partition(" | ")[2].strip() for line in lines if not line.startswith("  "))
    pages = _found(root, "usr/share/doc/python3*/html/_sources/tutorial/*.rst.txt")
    return "\n".join(re.sub(r"\n{3,}", "\n\n", page.read_text()) for page in pages)


def _found(root: Path, pattern: str) -> list[Path]:
    if found := sorted(root.glob(pattern)):
        return found
    raise FileNotFoundError(
        f"there is no {root / pattern}: unpack fortunes, perl-doc, wordnet-base and python3-doc there (see --help)"
    )


def _gensim(name: str) -> str:
    spec = find_spec("gensim")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("gensim is missing: pip install 'planish[examples]'")
    return Path(spec.submodule_search_locations[0], "test/test_data", name).read_text(encoding="latin-1")
