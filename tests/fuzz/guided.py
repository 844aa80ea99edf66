"""The same readers under coverage-guided fuzzing, for those who have atheris: no test, a command.

    pip install atheris
    python -m tests.fuzz.guided schedule -runs=20000 -max_len=4096      # or batch, checkpoint, image

It ends at the first input that gives anything but a result or a UserError, and writes that input to a file.
"""

import logging
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from compress.errors import UserError
from tests.fuzz.watch import SECONDS, limited

FOLDER = Path(tempfile.mkdtemp(prefix="guided-"))


def schedule(content: bytes) -> None:
    """A schedule's text, as far as a plan."""
    from compress.config.build import build_text
    from tests.compress.harness import tiny_net

    net = tiny_net()
    build_text(content.decode("utf-8", "replace"), "guided", net, torch.optim.SGD(net.parameters(), 0.1)).preview()


def batch(content: bytes) -> None:
    """A CIFAR batch."""
    from data.Classify_data.formats.cifar import read_batch

    (FOLDER / "batch").write_bytes(content)
    read_batch(FOLDER / "batch")


def checkpoint(content: bytes) -> None:
    """A checkpoint, as far as its form."""
    from engine.saved.find_checkpoint import load_subject

    (FOLDER / "a.pt").write_bytes(content)
    load_subject(FOLDER / "a.pt")


def image(content: bytes) -> None:
    """An image."""
    from data.images import DECODE_ERRORS, ImageFile

    (FOLDER / "a").write_bytes(content)
    try:
        ImageFile("a", FOLDER / "a").load()
    except DECODE_ERRORS as e:
        raise UserError(str(e)) from e


def seeds(name: str) -> dict[str, bytes]:
    """Whole files to start from."""
    from tests.fuzz.test_checkpoints import CONTENTS, as_bytes
    from tests.fuzz.test_files import BATCHES
    from tests.fuzz.test_images import SAMPLES
    from tests.fuzz.test_schedules import SOURCES

    return {
        "schedule": {str(i): text.encode() for i, (text, _) in enumerate(SOURCES)},
        "batch": BATCHES,
        "checkpoint": {name: as_bytes(make()) for name, make in CONTENTS.items()},
        "image": SAMPLES,
    }[name]


TARGETS: dict[str, Callable[[bytes], None]] = {each.__name__: each for each in (schedule, batch, checkpoint, image)}


def main() -> None:
    """Runs libFuzzer on one target."""
    import atheris

    with atheris.instrument_imports(include=["compress", "data", "models", "apputils", "pickle", "yaml", "PIL"]):
        import data.images  # noqa: F401
        import engine.saved.find_checkpoint  # noqa: F401
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"{__doc__}\ntargets: {', '.join(TARGETS)}")
    target = TARGETS[sys.argv.pop(1)]
    logging.disable(logging.CRITICAL)
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for name, content in seeds(target.__name__).items():
        (corpus / name.replace("/", "_")).write_bytes(content)

    def one(content: bytes) -> None:
        with suppress(UserError), limited(SECONDS):
            target(content)

    atheris.Setup([sys.argv[0], *sys.argv[1:], str(corpus)], atheris.instrument_func(one))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
