"""OpenVINO on the CPU. On CPUs with bfloat16 it computes floats in that by itself, so both settings are rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.export.runtimes.base import BFLOAT16, FLOAT32, Array, Converted, Loaded, Runtime, Source, bytes_of

_HINTS = {FLOAT32: "f32", BFLOAT16: "bf16"}


class Openvino(Runtime):
    """Reads ONNX files, keeps int8 weights, and fuses QuantizeLinear / DequantizeLinear into integer kernels."""

    name, packages, install, least = "openvino", ("openvino",), "openvino", (2024, 0)

    def precisions(self, quantized: bool) -> tuple[str, ...]:
        """bfloat16 first where it is the default of this CPU."""
        import openvino

        capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return (BFLOAT16, FLOAT32) if "BF16" in capabilities else (FLOAT32,)

    def convert(self, source: Source, folder: str) -> Converted:
        """OpenVINO's own `.xml` and `.bin`, weights at the precision of the ONNX file."""
        import openvino

        file = str(Path(folder) / "network.xml")
        openvino.save_model(openvino.Core().read_model(source.onnx), file, compress_to_fp16=False)
        return Converted(file, bytes_of(folder))

    def values(self, file: str, names: Sequence[str], inputs: Sequence[Sequence[Array]]) -> list[dict[str, Array]]:
        """See `Runtime`; each value becomes an output, so that OpenVINO fuses nothing across it."""
        import openvino

        core = openvino.Core()
        model = core.read_model(file)
        model.reshape(dict(zip(model.inputs, ([*x.shape] for x in inputs[0]), strict=True)))
        model.add_outputs(list(dict.fromkeys(names)))
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": _HINTS[FLOAT32]})
        found = []
        for each in inputs:
            results = compiled(dict(enumerate(each)))
            found.append({name: value.copy() for output, value in results.items() for name in output.get_names()})
        return found

    def load(self, file: str, precision: str, threads: int, shapes: Sequence[Sequence[int]] | None = None) -> Loaded:
        """See `Runtime`; sizes are fixed where they are known, which is quicker."""
        import openvino

        core = openvino.Core()
        model = core.read_model(file)
        if shapes is not None:
            model.reshape(dict(zip(model.inputs, map(list, shapes), strict=True)))
        hints = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
        return _Compiled(core.compile_model(model, "CPU", {**hints, "INFERENCE_NUM_THREADS": threads}))


class _Compiled(Loaded):
    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """See `Loaded`."""
        found = self._request.infer(dict(enumerate(inputs)), share_inputs=True)
        return [found[each].copy() for each in self._compiled.outputs]

    def kernels(self, layers: Sequence[str]) -> list[str]:
        """The kernels' names end in I8; each says which layers of the file it stands for."""
        found: set[str] = set()
        for operation in self._compiled.get_runtime_model().get_ops():
            about = operation.get_rt_info()
            kernel, kind = (about[key].astype(str) if key in about else "" for key in ("primitiveType", "layerType"))
            if kind in ("Convolution", "Deconvolution", "FullyConnected", "MatMul") and kernel.lower().endswith("i8"):
                found.update(about["originalLayersNames"].astype(str).split(","))
        return [each for each in layers if each in found]
