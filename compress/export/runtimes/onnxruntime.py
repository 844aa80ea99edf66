"""onnxruntime on the CPU, and on CUDA where its GPU package is installed."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compress.export.runtimes.base import Array, Converted, Loaded, Runtime, RuntimeFault, Source

INTEGER = {
    "QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul", "QLinearConvTranspose",
}  # fmt: skip
_GRAPH, _NODE, _NAME, _KIND = 7, 1, 3, 4  # fields of ONNX's ModelProto, GraphProto and NodeProto
_SIZED, _FIXED = 2, {1: 8, 5: 4}  # kinds of a protocol buffer's fields, with the bytes of those of fixed size


class Onnxruntime(Runtime):
    """Runs ONNX files as they are."""

    name, packages, install, least = "onnxruntime", ("onnxruntime",), "onnxruntime", (1, 20)
    provider = "CPUExecutionProvider"

    def convert(self, source: Source, folder: str) -> Converted:
        """The ONNX file itself."""
        return Converted(source.onnx, Path(source.onnx).stat().st_size)

    def load(self, file: str, precision: str, threads: int, shapes: Sequence[Sequence[int]] | None = None) -> Loaded:
        """See `Runtime`."""
        return Session(file, threads, self.provider)


class OnnxruntimeCuda(Onnxruntime):
    """The same on an NVIDIA GPU."""

    name, install = "onnxruntime-cuda", "onnxruntime-gpu"
    provider = "CUDAExecutionProvider"

    def available(self) -> str:
        """See `Runtime`."""
        reason = super().available()
        if reason:
            return reason
        import onnxruntime

        if self.provider in onnxruntime.get_available_providers():
            return ""
        return f"{self.name}: this onnxruntime has no {self.provider}: pip install {self.install}, on an NVIDIA GPU"


class Session(Loaded):
    """A session of one provider."""

    def __init__(self, file: str, threads: int, provider: str, options: dict[str, Any] | None = None) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = threads
        providers = [(provider, options or {}), *(["CPUExecutionProvider"] if "CPU" not in provider else [])]
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            if provider == Onnxruntime.provider:  # an engine of another one cannot be written as a graph
                settings.optimized_model_filepath = str(optimized)
                settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
            self._session = onnxruntime.InferenceSession(file, settings, providers=providers)
            self._nodes = _nodes(optimized) if optimized.is_file() else None
        if provider not in self._session.get_providers():
            raise RuntimeFault(f"onnxruntime does not start {provider} on this machine")
        self._names = [each.name for each in self._session.get_inputs()]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """See `Loaded`."""
        return list(self._session.run(None, dict(zip(self._names, inputs, strict=True))))

    def kernels(self, layers: Sequence[str]) -> list[str] | None:
        """By the names of nodes, which fusion keeps in front."""
        if self._nodes is None:
            return None
        found = {re.sub(r"(_token_\d+|_nchwc|_quant|/.*)*$", "", name) for kind, name in self._nodes if kind in INTEGER}
        return [each for each in layers if each in found]


def _nodes(file: Path) -> list[tuple[str, str]]:
    """Operation and name of each node, read without the package onnx, which a device need not have."""
    found = []
    for graph in _parts(memoryview(file.read_bytes()), _GRAPH):
        for node in _parts(graph, _NODE):
            name, kind = (next((bytes(x).decode() for x in _parts(node, field)), "") for field in (_NAME, _KIND))
            found.append((kind, name))
    return found


def _parts(message: memoryview, field: int) -> Iterator[memoryview]:
    """The parts of a protocol-buffer message that have a length, under a field's number."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        if tag & 7 == _SIZED:
            size, place = _varint(message, place)
            if tag >> 3 == field:
                yield message[place : place + size]
            place += size
        elif tag & 7 == 0:
            _, place = _varint(message, place)
        else:
            place += _FIXED[tag & 7]


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where the next one begins."""
    value = shift = 0
    while True:
        byte = message[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place
