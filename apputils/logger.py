"""What a run writes while it trains: text log, CSV and TensorBoard events under logs/<run>/.

Here: `RunLogger`, and `NoFiles` in its place. Not here: what is measured. Called by the base solver. TensorBoard's
tags: the loss, its components and metrics by their own names; `lr`, `sparsity`, `sparsity/<weight>`; `weights/<weight>`
(histograms); `activations/<layer>/<statistic>`; `pictures/<name>`.
"""

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tensorboardX import SummaryWriter
from torch import Tensor, nn

from apputils.activations import NUMBERS, ActivationReport, append_activations
from apputils.console import Printable
from apputils.runs import Run
from compress.selectors import canonical_parameters

logger = logging.getLogger("run")


class RunLogger:
    """Files of one run.

    Args:
        run: whose folder takes the files.
        first_epoch: the first epoch that will be logged; events from there on, of a run that died, are dropped.
    """

    def __init__(self, run: Run, first_epoch: int = 0) -> None:
        self.folder: Path = run.logs
        self.folder.mkdir(parents=True, exist_ok=True)
        self._events = SummaryWriter(str(self.folder), purge_step=first_epoch)
        self._handler = logging.FileHandler(self.folder / "log.txt", encoding="utf-8")
        self._handler.setFormatter(Printable("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger().addHandler(self._handler)

    def write_settings(self, options: Mapping[str, Any], schedule: Mapping[str, Any]) -> None:
        """Writes the options and the resolved schedule as YAML."""
        for name, content in (("options", options), ("schedule", schedule)):
            text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
            (self.folder / f"{name}.yaml").write_text(text, encoding="utf-8")

    def log_epoch(self, history: list[dict[str, float]]) -> None:
        """Sends the newest row to TensorBoard and writes all rows as CSV.

        Args:
            history: one row per finished epoch, `epoch` and named numbers; a number may be new in a later row.
        """
        row = history[-1]
        for name, value in row.items():
            if name != "epoch":
                self._events.add_scalar(name, value, int(row["epoch"]))
        self._events.flush()
        columns = list(dict.fromkeys(name for each in history for name in each))
        with (self.folder / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(history)

    def log_histograms(self, epoch: int, model: nn.Module) -> None:
        """Sends histograms of the weights (two or more dimensions) to TensorBoard, without what is exactly zero."""
        for name, parameter in canonical_parameters(model).items():
            values = parameter.detach()[parameter.detach() != 0].float().cpu()
            if parameter.dim() > 1 and len(values):
                self._events.add_histogram(f"weights/{name}", values.numpy(), epoch)

    def log_activations(self, epoch: int, report: ActivationReport) -> None:
        """Sends statistics of layers' outputs to TensorBoard, and adds them to `activations.csv`; nothing if empty."""
        for row in report.layers.to_dict("records"):
            for name in NUMBERS:
                self._events.add_scalar(f"activations/{row['layer']}/{name}", row[name], epoch)
        if len(report.layers):
            append_activations(report, self.folder / "activations.csv", epoch)

    def log_pictures(self, epoch: int, pictures: Mapping[str, Tensor]) -> None:
        """Sends pictures, RGB (3, H, W) in [0, 1] by name, to TensorBoard."""
        for name, picture in pictures.items():
            self._events.add_image(f"pictures/{name}", picture.detach().float().clamp(0, 1).cpu().numpy(), epoch)

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

    def log_pictures(self, epoch: int, pictures: Mapping[str, Tensor]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
