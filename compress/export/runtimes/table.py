"""The runtimes by name. To add one: its file here, and its entry."""

from compress.export.runtimes.base import Runtime
from compress.export.runtimes.coreml import Coreml
from compress.export.runtimes.executorch import Executorch
from compress.export.runtimes.litert import Litert
from compress.export.runtimes.ncnn import Ncnn
from compress.export.runtimes.onnxruntime import Onnxruntime, OnnxruntimeCuda
from compress.export.runtimes.openvino import Openvino
from compress.export.runtimes.tensorrt import Tensorrt

RUNTIMES: dict[str, Runtime] = {
    each.name: each
    for each in (
        Onnxruntime(), Openvino(), Executorch(), Litert(), Ncnn(), Coreml(), OnnxruntimeCuda(), Tensorrt()
    )
}  # fmt: skip


def installed() -> list[str]:
    """Names of those that can be used here."""
    return [name for name, runtime in RUNTIMES.items() if not runtime.available()]
