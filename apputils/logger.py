"""What a run writes while it trains: text log, CSV and TensorBoard events under logs/<run>/.

Here: `RunLogger`. Not here: what is measured. Called by the base solver.
"""

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tensorboardX import SummaryWriter

from apputils.runs import Run

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
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
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

    def close(self) -> None:
        """Closes the files; the text log takes no more lines."""
        self._events.close()
        logging.getLogger().removeHandler(self._handler)
        self._handler.close()
