"""Which runtime times the layers on a device."""

import pytest

from compress.errors import UserError
from engine.commands.runtimes import _clock


def test_the_first_named_one_with_a_profiler_times_the_layers() -> None:
    assert (_clock(None), _clock(["all"]), _clock(["litert", "openvino", "onnxruntime"])) == (
        "onnxruntime", "onnxruntime", "openvino",
    )  # fmt: skip
    with pytest.raises(UserError, match="layers are timed by onnxruntime or openvino, and --runtimes names neither"):
        _clock(["litert"])
