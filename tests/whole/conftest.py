"""The tiny super-resolution run of tests/engine; one thread for tiny tensors, as in tests/compress."""

from tests.compress.conftest import one_thread
from tests.engine.conftest import trainer_of

__all__ = ["one_thread", "trainer_of"]
