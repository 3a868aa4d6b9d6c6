"""Coverage-guided fuzzing of one format, by atheris (libFuzzer): what reaches new lines is kept, and changed further.

python -m fuzz.guided FORMAT SEEDS CORPUS SECONDS, from `benchmarks`. It ends with the first input that ends wrongly,
which is left in the corpus' folder as `crash-...`.
"""

import sys
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["planish", "onnx", "tomllib", "yaml"]):
    from .cases import FORMATS, GOOD, outcome_of
from .mutations import several

MOST_MEGABYTES = 4096


def main(kind: str, seeds: str, corpus: str, seconds: str) -> None:
    """Fuzz a format for so many seconds."""
    form = FORMATS[kind]

    def read(content: bytes) -> None:
        with TemporaryDirectory(prefix="planish-guided-") as folder:
            path = Path(folder) / form.file
            path.write_bytes(content)
            outcome = outcome_of(form, path)
        if outcome[0] not in GOOD:
            raise AssertionError(outcome)

    def change(content: bytes, most: int, seed: int) -> bytes:
        """Change the structure as often as bytes."""
        random = Random(seed)
        if random.random() < 0.5:
            return atheris.Mutate(content, most)
        return several(form.mutate, content, random)[:most]

    options = [f"-max_total_time={seconds}", f"-rss_limit_mb={MOST_MEGABYTES}", "-timeout=30", "-max_len=65536"]
    options += [f"-artifact_prefix={corpus}/", "-print_final_stats=1", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, corpus, seeds], read, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
