"""What a run writes while it trains: text log, CSV and TensorBoard events under logs/<run>/.

`RunLogger`, and `NoFiles` in its place. Called by the trainer. TensorBoard's tags: the loss, its components and
metrics by their own names; `lr`, `sparsity`, `sparsity/<weight>`; `weights/<weight>` (histograms);
`activations/<layer>/<statistic>`; `images/<name>`.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tensorboardX import summary
from torch import Tensor, nn

from apputils.runs.folders import Run
from apputils.runs.optional_files import EventFile, SideFiles, TextLog
from compress.analysis.activations.statistics import NUMBERS, ActivationReport, append_activations
from compress.io.csv_file import write_records
from compress.io.files import write_text
from compress.selectors import canonical_parameters

POWERS = 1e-12 * 1.1 ** np.arange(774)
BINS = [*-POWERS[::-1], 0.0, *POWERS]  # of histograms, as TensorFlow has them


class RunLogger:
    """Files of one run. One that cannot be written while it trains, on a full disk, is a warning (optional_files.py).

    Args:
        run: whose folder takes the files.
        first_epoch: the first epoch that will be logged; events from there on, of a run that died, are dropped.
    """

    def __init__(self, run: Run, first_epoch: int = 0) -> None:
        self.folder: Path = run.logs
        self.folder.mkdir(parents=True, exist_ok=True)
        self._side = SideFiles(self.folder)
        self._events = EventFile(self.folder, first_epoch, self._side)
        self._handler = TextLog(self.folder / "log.txt", self._side)
        logging.getLogger().addHandler(self._handler)

    def write_settings(self, options: Mapping[str, Any], schedule: Mapping[str, Any]) -> None:
        """Writes the options and the resolved schedule as YAML."""
        for name, content in (("options", options), ("schedule", schedule)):
            text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
            with self._side.writing(f"{name}.yaml"):
                write_text(self.folder / f"{name}.yaml", text)

    def log_epoch(self, history: list[dict[str, float]]) -> None:
        """Sends the newest row to TensorBoard and writes all rows as CSV.

        Args:
            history: one row per finished epoch, `epoch` and named numbers; a number may be new in a later row.
        """
        row = history[-1]
        for name, value in row.items():
            if name != "epoch":
                self._events.add(summary.scalar(name, value), int(row["epoch"]))
        self._events.flush()
        path = self.folder / "metrics.csv"
        with self._side.writing(path.name):
            write_records(path, history)

    def log_histograms(self, epoch: int, model: nn.Module) -> None:
        """Sends histograms of the weights (two or more dimensions) to TensorBoard, without what is exactly zero."""
        for name, parameter in canonical_parameters(model).items():
            values = parameter.detach()[parameter.detach() != 0].float().cpu()
            if parameter.dim() > 1 and len(values):
                self._events.add(summary.histogram(f"weights/{name}", values.numpy(), BINS), epoch)

    def log_activations(self, epoch: int, report: ActivationReport) -> None:
        """Sends statistics of layers' outputs to TensorBoard, and adds them to `activations.csv`; nothing if empty."""
        for row in report.layers.to_dict("records"):
            for name in NUMBERS:
                self._events.add(summary.scalar(f"activations/{row['layer']}/{name}", row[name]), epoch)
        path = self.folder / "activations.csv"
        if len(report.layers):
            with self._side.writing(path.name):
                append_activations(report, path, epoch)

    def log_images(self, epoch: int, images: Mapping[str, Tensor]) -> None:
        """Sends images, RGB (3, H, W) in [0, 1] by name, to TensorBoard."""
        for name, one_image in images.items():
            values = one_image.detach().float().clamp(0, 1).cpu().numpy()
            self._events.add(summary.image(f"images/{name}", values), epoch)

    def close(self) -> None:
        """Closes the files; the text log takes no more lines."""
        self._events.close()
        logging.getLogger().removeHandler(self._handler)
        self._handler.close()


class NoFiles(RunLogger):
    """Takes the same and writes nothing: of several processes the first one writes."""

    def __init__(self) -> None:
        pass

    def write_settings(self, options: Mapping[str, Any], schedule: Mapping[str, Any]) -> None:
        """Nothing."""

    def log_epoch(self, history: list[dict[str, float]]) -> None:
        """Nothing."""

    def log_histograms(self, epoch: int, model: nn.Module) -> None:
        """Nothing."""

    def log_activations(self, epoch: int, report: ActivationReport) -> None:
        """Nothing."""

    def log_images(self, epoch: int, images: Mapping[str, Tensor]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
