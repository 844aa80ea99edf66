"""Core ML: coremltools converts on any system, and the file runs on macOS only."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.export.runtimes.base import (
    FLOAT16,
    Array,
    Converted,
    Loaded,
    Runtime,
    RuntimeFault,
    Source,
    bytes_of,
)  # fmt: skip


class Coreml(Runtime):
    """Writes an `.mlpackage`; int8 by the quantize / dequantize operations of the program, with our scales."""

    name, packages, install, least = "coreml", ("coremltools",), "coremltools", (8, 0)
    reads, fixed_sizes = "program", True

    def precisions(self, quantized: bool) -> tuple[str, ...]:
        """float16 is Core ML's own choice; the file is written so."""
        return (FLOAT16,)

    def convert(self, source: Source, folder: str) -> Converted:
        """See `Runtime`."""
        import coremltools

        from compress.export.decomposed import load_program

        program = load_program(source.program).run_decompositions({})
        package = Path(folder) / "network.mlpackage"
        target = coremltools.target.iOS18 if source.quantized else coremltools.target.iOS16
        coremltools.convert(program, minimum_deployment_target=target).save(str(package))
        return Converted(str(package), bytes_of(folder))

    def load(self, file: str, precision: str, threads: int, shapes: Sequence[Sequence[int]] | None = None) -> Loaded:
        """See `Runtime`."""
        if sys.platform != "darwin":
            raise RuntimeFault(f"converted; Core ML runs on macOS only and this is {sys.platform}: not run, not timed")
        import coremltools

        return _Package(coremltools.models.MLModel(file))


class _Package(Loaded):
    def __init__(self, model: Any) -> None:
        self._model = model
        description = model.get_spec().description
        self._inputs = [each.name for each in description.input]
        self._outputs = [each.name for each in description.output]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """See `Loaded`."""
        found = self._model.predict(dict(zip(self._inputs, inputs, strict=True)))
        return [found[each] for each in self._outputs]
