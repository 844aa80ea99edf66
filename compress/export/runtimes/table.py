"""The runtimes by name. To add one: its file here, and its entry."""

from compress.export.runtimes.base import Runtime
from compress.export.runtimes.onnxruntime import Onnxruntime, OnnxruntimeCuda
from compress.export.runtimes.openvino import Openvino

RUNTIMES: dict[str, Runtime] = {each.name: each for each in (Onnxruntime(), Openvino(), OnnxruntimeCuda())}


def installed() -> list[str]:
    """Names of those that can be used here."""
    return [name for name, runtime in RUNTIMES.items() if not runtime.available()]
