"""Statistics of what each layer of a network puts out, gathered by hooks while something else runs the network.

The hooks, the table, its files. Called by the tester, and by the trainer with `--activation-stats`.

    with ActivationStatistics(model, calls=10) as statistics:
        evaluate(model)
    report = statistics.report()
    write_activations(report, Path("results/run/activations.xlsx"))      # and activations*.csv
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compress.analysis.activations.collectors import COLLECTORS, Collector, Counts, Output
from compress.analysis.workbook import Workbook, shape_text
from compress.io.csv_file import write_frame
from compress.io.files import read_text
from compress.io.optional import on_use

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = on_use("pandas")

LAST_DIMENSION = (nn.Linear, nn.LayerNorm, nn.Embedding)  # layers whose channels come last
NUMBERS = ("sparsity", "mean", "min", "max", "std")


logger = logging.getLogger("run")


@dataclass(frozen=True)
class ActivationReport:
    """What the collectors found.

    Attributes:
        layers: one row a layer that ran: layer, kind, calls, shape (of its last output), the numbers, and
            dead_channels: how many channels were zero wherever it ran.
        channels: one row a channel: layer, channel, apoz.
        histograms: layer -> counts of its values that are not zero.
    """

    layers: pd.DataFrame
    channels: pd.DataFrame
    histograms: dict[str, Counts]


class ActivationStatistics:
    """Watches a network's layers between `with` and its end.

    A layer is a module without children, or one with parameters of its own. The network's results stay as they are.

    Args:
        model: the network.
        calls: of the network that are watched, the first ones; None watches all.
        collectors: which statistics.
        enabled: False watches nothing, so that a caller need not branch.
    """

    def __init__(
        self,
        model: nn.Module,
        calls: int | None = None,
        collectors: Sequence[type[Collector]] = COLLECTORS,
        enabled: bool = True,
    ) -> None:
        self._model, self._limit, self._kinds, self._enabled = model, calls, collectors, enabled
        self._hooks: list[Any] = []
        self._found: dict[str, _Watched] = {}
        self._seen = 0

    def __enter__(self) -> ActivationStatistics:
        if self._enabled:
            for name, module in self._model.named_modules():
                if not list(module.children()) or list(module.parameters(recurse=False)):
                    self._hooks.append(module.register_forward_hook(self._hook(name)))
            self._hooks.append(self._model.register_forward_hook(self._count))
        return self

    def __exit__(self, *details: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def report(self) -> ActivationReport:
        """What was gathered so far, in the order in which layers first ran."""
        rows: list[dict[str, Any]] = []
        channels: list[dict[str, Any]] = []
        histograms: dict[str, Counts] = {}
        for name, watched in self._found.items():
            values = {collector.name: collector.value() for collector in watched.collectors}
            plain = {key: value for key, value in values.items() if isinstance(value, float)}
            apoz = values.get("apoz", [])
            rows.append({
                "layer": name, "kind": watched.kind, "calls": watched.calls, "shape": watched.shape, **plain,
                "dead_channels": sum(value == 1.0 for value in apoz),
            })  # fmt: skip
            channels += [{"layer": name, "channel": i, "apoz": value} for i, value in enumerate(apoz)]
            if isinstance(values.get("histogram"), Counts):
                histograms[name] = values["histogram"]
        head = ["layer", "kind", "calls", "shape"]
        layers = pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*head, *NUMBERS, "dead_channels"])
        _tell_of_left_out({name: watched.not_finite for name, watched in self._found.items() if watched.not_finite})
        return ActivationReport(layers, pd.DataFrame(channels, columns=["layer", "channel", "apoz"]), histograms)

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = _first_tensor(output)
            if tensor is None or not tensor.is_floating_point() or not tensor.numel():
                return
            if self._limit is not None and self._seen >= self._limit:
                return
            if name not in self._found:
                self._found[name] = _Watched(type(module).__name__, [kind() for kind in self._kinds])
            self._found[name].add(module, tensor.detach())

        return hook

    def _count(self, model: nn.Module, inputs: Any, output: Any) -> None:
        self._seen += 1


def _tell_of_left_out(samples: dict[str, int]) -> None:
    if samples:
        worst = max(samples, key=lambda name: samples[name])
        logger.warning(
            "activation statistics: outputs of %d layers were not finite (NaN or infinite); such samples were left "
            "out, %d in %s", len(samples), samples[worst], worst or "the network",
        )  # fmt: skip


class _Watched:
    """A layer's collectors."""

    def __init__(self, kind: str, collectors: list[Collector]) -> None:
        self.kind, self.collectors = kind, collectors
        self.calls = 0
        self.not_finite = 0  # samples left out
        self.shape: tuple[int, ...] = ()

    @torch.no_grad()
    def add(self, module: nn.Module, output: Tensor) -> None:
        self.calls, self.shape = self.calls + 1, tuple(output.shape)
        found = Output(_by_channel(module, output))
        if not found.is_finite:  # a sample with a few has finite values as wrong: it is left out whole
            good = torch.isfinite(output)
            samples = good.reshape(len(output), -1).all(1) if output.dim() > 1 else good
            self.not_finite += int((~samples).sum())
            output = output[samples]
            if not output.numel():
                return
            found = Output(_by_channel(module, output))
        for collector in self.collectors:
            collector.add(found)


def _by_channel(module: nn.Module, output: Tensor) -> Tensor:
    """(channels, values of the channel)."""
    return output.movedim(channel_dim(module, output), 0).flatten(1) if output.dim() > 1 else output[:, None]


def channel_dim(module: nn.Module, output: Tensor) -> int:
    """The dimension of a layer's channels: the last of linear layers and of sequences (N, T, C), else the second."""
    sequence = output.dim() == 3 and not isinstance(module, nn.Conv1d | nn.BatchNorm1d | nn.modules.pooling._MaxPoolNd)
    return output.dim() - 1 if isinstance(module, LAST_DIMENSION) or sequence else min(1, output.dim() - 1)


def write_activations(report: ActivationReport, path: Path) -> None:
    """Writes a workbook (sheets `activations`, `apoz`, `histograms`), and beside it each sheet as CSV: the first under
    the workbook's name, the others with `_apoz` and `_histograms` behind it.

    Raises:
        UserError: a file cannot be written.
    """
    book = Workbook()
    sheet = book.add_table("activations", report.layers, percent=["sparsity"], note="outputs of layers")
    if len(report.layers):
        book.add_chart(sheet, "bar", x="layer", series=["sparsity"], title="Zeros in outputs", y_title="fraction")
    book.add_table("apoz", report.channels, percent=["apoz"], note="average percentage of zeros of each channel")
    histograms = histogram_rows(report)
    book.add_table("histograms", histograms, note="outputs that are not zero")
    book.save(path)
    for ending, table in (("", report.layers), ("_apoz", report.channels), ("_histograms", histograms)):
        write_frame(path.with_name(f"{path.stem}{ending}.csv"), table)


def append_activations(report: ActivationReport, path: Path, epoch: int) -> None:
    """Adds an epoch's rows to a CSV whose first column is `epoch`; rows of this epoch and later ones are replaced.

    A damaged file is kept beside the new one, and that is said: it is no reason to end a run.
    """
    rows = report.layers.assign(shape=[shape_text(shape) for shape in report.layers["shape"]])
    rows.insert(0, "epoch", epoch)
    if path.exists():
        try:
            before = pd.read_csv(io.StringIO(read_text(path)))
            rows = pd.concat([before[before["epoch"] < epoch], rows])
        except (ValueError, LookupError, TypeError, OverflowError, MemoryError) as e:
            kept = path.with_name(f"{path.name}.damaged")
            path.replace(kept)
            logger.warning("%s cannot be gone on with (%s); it is kept as %s", path, str(e)[:200], kept.name)
    write_frame(path, rows)


def histogram_rows(report: ActivationReport) -> pd.DataFrame:
    """One row a bin: layer, from, to, count."""
    rows = [
        {"layer": name, "from": low, "to": high, "count": count}
        for name, bins in report.histograms.items()
        for low, high, count in zip(bins.edges[:-1], bins.edges[1:], bins.counts, strict=True)
    ]
    return pd.DataFrame(rows, columns=["layer", "from", "to", "count"])


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None
