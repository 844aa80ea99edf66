"""TensorRT on an NVIDIA GPU, through onnxruntime's provider; `trtexec_command` for those who use its own program."""

from collections.abc import Sequence

from compress.export.runtimes.base import FLOAT16, FLOAT32, Loaded
from compress.export.runtimes.onnxruntime import OnnxruntimeCuda, Session


class Tensorrt(OnnxruntimeCuda):
    """Builds an engine of the ONNX file; int8 by the QuantizeLinear / DequantizeLinear in it."""

    name, install = "tensorrt", "onnxruntime-gpu tensorrt"
    provider = "TensorrtExecutionProvider"

    def precisions(self, quantized: bool) -> tuple[str, ...]:
        """float16 only where it is asked for, so that both are rows."""
        return (FLOAT32, FLOAT16)

    def load(self, file: str, precision: str, threads: int, shapes: Sequence[Sequence[int]] | None = None) -> Loaded:
        """See `Runtime`."""
        options = {"trt_fp16_enable": precision == FLOAT16, "trt_int8_enable": True}
        return Session(file, threads, self.provider, options)


def trtexec_command(file: str, shapes: Sequence[Sequence[int]], names: Sequence[str], precision: str) -> list[str]:
    """What builds and times the same engine by TensorRT's own program.

    Args:
        file: the ONNX file.
        shapes: of its inputs.
        names: of its inputs.
        precision: of floats.
    """
    sizes = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in zip(names, shapes, strict=True))
    extra = ["--fp16"] if precision == FLOAT16 else []
    return ["trtexec", f"--onnx={file}", f"--shapes={sizes}", "--int8", *extra, "--useCudaGraph", "--noDataTransfers"]
