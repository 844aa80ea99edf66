"""Which classes are taken for which: confusion matrix, accuracy of each class, as tables, files and a drawing.

Counts and their form. Called by the tester.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from compress.io.csv_file import write_csv, write_records
from compress.io.files import replacing

MOST_WRITTEN = 30  # classes whose names and counts still fit into the drawing


@dataclass(frozen=True)
class Confusion:
    """Counts of answers.

    Attributes:
        classes: names.
        counts: int64 (classes, classes); row: the true class, column: the answer.
    """

    classes: tuple[str, ...]
    counts: Tensor

    @classmethod
    def of(cls, classes: Sequence[str], labels: Tensor, answers: Tensor) -> "Confusion":
        """Counts of images with these labels (n,) and answers (n,), both places in `classes`."""
        size = len(classes)
        counts = torch.bincount(labels * size + answers, minlength=size * size).reshape(size, size)
        return cls(tuple(classes), counts)

    def rows(self) -> list[dict[str, Any]]:
        """For each class: images, how many were right (recall, %), how many answers were right (precision, %).

        A share of no images is None.
        """
        right, asked, said = self.counts.diagonal(), self.counts.sum(1), self.counts.sum(0)
        return [
            {
                "class": name,
                "images": int(asked[i]),
                "accuracy": _percent(right[i], asked[i]),
                "precision": _percent(right[i], said[i]),
                "most often taken for": self._mistake(i),
            }
            for i, name in enumerate(self.classes)
        ]

    def matrix_rows(self) -> list[dict[str, Any]]:
        """The matrix, a row a true class with a count for each answer; nothing for more than thirty classes."""
        if len(self.classes) > MOST_WRITTEN:
            return []
        return [
            {"true class": name, **{f"as {answer}": count for answer, count in zip(self.classes, row, strict=True)}}
            for name, row in zip(self.classes, self.counts.tolist(), strict=True)
        ]

    def table(self) -> str:
        """The rows for a screen, the least accurate first; at most thirty."""
        rows = sorted(self.rows(), key=lambda row: 101.0 if row["accuracy"] is None else row["accuracy"])
        return tabulate(rows[:MOST_WRITTEN], headers="keys", floatfmt=".2f")

    def write(self, folder: Path) -> list[Path]:
        """Writes `classes.csv`, `confusion.csv` and `confusion.png`; returns their paths."""
        write_records(folder / "classes.csv", self.rows())
        counts = [[name, *row] for name, row in zip(self.classes, self.counts.tolist(), strict=True)]
        write_csv(folder / "confusion.csv", ["true class", *self.classes], counts)
        self.draw(folder / "confusion.png")
        return [folder / name for name in ("classes.csv", "confusion.csv", "confusion.png")]

    def draw(self, path: Path) -> None:
        """Draws the matrix, each row as shares of its class."""
        from matplotlib.figure import Figure  # a second to import, which a table need not wait for

        shares = self.counts / self.counts.sum(1, keepdim=True).clamp_min(1)
        side = min(14.0, 3.0 + 0.45 * len(self.classes))
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
        axes.set(xlabel="answer", ylabel="true class")
        if len(self.classes) <= MOST_WRITTEN:
            places = range(len(self.classes))
            axes.set_xticks(places, self.classes, rotation=60, ha="right")
            axes.set_yticks(places, self.classes)
            for row, column in self.counts.nonzero().tolist():
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(
                    column, row, str(int(self.counts[row, column])), ha="center", va="center", color=colour, size=8
                )
        with replacing(path) as temporary:
            figure.savefig(temporary)

    def _mistake(self, label: int) -> str:
        wrong = self.counts[label].clone()
        wrong[label] = 0
        return self.classes[int(wrong.argmax())] if int(wrong.sum()) else ""


def _percent(part: Tensor, whole: Tensor) -> float | None:
    return 100 * int(part) / int(whole) if int(whole) else None
