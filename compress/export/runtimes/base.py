"""What every runtime answers: is it here, what does it make of a network, how does it run it. No torch, no project.

`Runtime`, `Loaded`, `Source`, `Converted`, `wrong_of`. The files of this folder that a device needs import nothing else
of ours, so that a bundle carries them as they are.
"""

import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

FLOAT32, BFLOAT16, FLOAT16 = "float32", "bfloat16", "float16"
Array = Any  # numpy's, which mypy need not follow into workers


class RuntimeFault(Exception):
    """A runtime cannot do what is asked; the message is one sentence."""


@dataclass(frozen=True)
class Source:
    """A network as files that runtimes convert.

    Attributes:
        name: of the network.
        quantized: whether it computes on 8-bit grids.
        layers: convolutions and linear layers with 8-bit weights, which are to run in integers.
        shapes: of the inputs, for runtimes that fix sizes.
        types: of the inputs, such as `float32`; none given: all of them are that.
        onnx: ONNX file, float or with QuantizeLinear / DequantizeLinear.
        program: `.pt2` file of torch.export with fixed sizes, likewise.
        faults: kind of file -> why there is none.
    """

    name: str
    quantized: bool
    layers: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    onnx: str = ""
    program: str = ""
    faults: tuple[tuple[str, str], ...] = ()
    types: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted:
    """A network in a runtime's own form.

    Attributes:
        file: what `load` takes.
        bytes: of all its files.
        notes: what the form cannot hold, a sentence each.
    """

    file: str
    bytes: int
    notes: tuple[str, ...] = ()


class Loaded:
    """A network ready to run in a runtime."""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs, in the network's order."""
        raise NotImplementedError

    def kernels(self, layers: Sequence[str]) -> list[str] | None:
        """Those of the layers that run in integers; None where the runtime does not report it."""
        return None


class Runtime:
    """A runtime.

    Attributes:
        name: as `--runtimes` takes it.
        packages: to import, the first one is its version's.
        to_run: those of them that run a converted file, such as on a device; empty: all.
        install: what gets them.
        least: the oldest version that works, as numbers.
        reads: the kind of file it converts: `onnx` or `program`.
        fixed_sizes: whether a converted file takes inputs of one size only.
        runs: whether it can run on this operating system; else why not.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    to_run: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str]
    least: ClassVar[tuple[int, ...]] = (0,)
    reads: ClassVar[str] = "onnx"
    fixed_sizes: ClassVar[bool] = False
    runs_not: str = ""

    def available(self) -> str:
        """Why it cannot be used here, with the command that changes it; empty if it can."""
        return self._missing(self.packages, self.install)

    def runs_not_here(self) -> str:
        """Why a file that was converted elsewhere cannot be run here; empty if it can."""
        needed = self.to_run or self.packages
        return self._missing(needed, " ".join(each.replace("_", "-") for each in needed))

    def _missing(self, packages: Sequence[str], install: str) -> str:
        missing = [each for each in packages if importlib.util.find_spec(each) is None]
        if missing:
            return f"{self.name} requires {', '.join(missing)}, not installed: pip install {install}"
        if numbers(self.version()) < self.least:
            least = ".".join(map(str, self.least))
            return f"{self.name} {self.version()} is too old, {least} is needed: pip install -U {install}"
        return ""

    def version(self) -> str:
        """Of its first package, `?` if it does not say."""
        for name in (self.packages[0], self.packages[0].replace("_", "-"), self.install.split()[0]):
            try:
                return importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return "?"

    def precisions(self, quantized: bool) -> tuple[str, ...]:
        """What floats are computed in, its default first; each is a row of the table."""
        return (FLOAT32,)

    def convert(self, source: Source, folder: str) -> Converted:
        """The network in this runtime's form, in a folder of its own.

        Raises:
            RuntimeFault: it has no such form.
        """
        raise NotImplementedError

    def values(self, file: str, names: Sequence[str], inputs: Sequence[Sequence[Array]]) -> list[dict[str, Array]]:
        """Name -> array of values inside an ONNX file, one dictionary for each of the inputs, which are of one size;
        floats are computed in float32 on the CPU.

        Raises:
            RuntimeFault: it does not show them.
        """
        raise RuntimeFault(f"{self.name} does not show the values inside a network")

    def load(self, file: str, precision: str, threads: int, shapes: Sequence[Sequence[int]] | None = None) -> Loaded:
        """A converted network, to run with so many threads.

        Args:
            file: of `convert`.
            precision: of `precisions`.
            threads: of one run.
            shapes: of the inputs, where all have one; None where they change.
        """
        raise NotImplementedError


def numbers(version: str) -> tuple[int, ...]:
    """`2026.4.1` -> (2026, 4, 1); an unknown version passes."""
    return tuple(map(int, re.findall(r"\d+", version)[:3])) or (10**9,)


def milliseconds_text(value: float, digits: int = 3) -> str:
    """So many significant digits, but never fewer than there are before the point: `1.25`, `1177`."""
    return f"{value:.{digits}g}" if value < 10**digits - 0.5 else f"{value:.0f}"


def bytes_of(folder: str | Path) -> int:
    """Of all files of a folder."""
    return sum(each.stat().st_size for each in Path(folder).rglob("*") if each.is_file())


# Mean difference, as a share of the largest value, beyond which a row is wrong: far beyond orders of sums in float32,
# and beyond integers and halves that are off by a step or two (docs/runtimes.md has what is measured).
BEYOND = {"float32": 1e-3}
ROUNDED, SEVEN_BITS = 0.05, {"ncnn": 0.1}


def wrong_of(row: Mapping[str, Any]) -> str:
    """What is to be said of a row whose outputs are off by more than rounding; empty where they are right.

    Args:
        row: of a runtime, with `mean` and `largest`, the difference to PyTorch and its scale.
    """
    seven = SEVEN_BITS.get(row["runtime"], ROUNDED)
    bound = seven if row["quantized"] else BEYOND.get(row["precision"], ROUNDED)
    if row["mean"] is None or row["mean"] <= bound * row["largest"]:  # NaN is wrong
        return ""
    share = f"{100 * row['mean'] / row['largest']:.2g} % of the largest value" if row["largest"] else "and they are 0"
    return (
        f"wrong results: the outputs differ from PyTorch's by {row['mean']:.2g} on average, {share}, and rounding "
        f"explains {100 * bound:g} %: the converter or the runtime computes another operation. Do not deploy this "
        "file; it is not named the fastest"
    )
