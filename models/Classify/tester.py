"""Evaluation of classifiers: accuracy beside the majority class, confusion matrix, predictions.

`ClassifyTester`.
"""

import logging
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from tabulate import tabulate
from torch import Tensor, nn

from apputils.Classify_apputils.confusion import Confusion
from compress.analysis.sensitivity.evaluation import Evaluation
from compress.io.csv_file import write_csv
from data.Classify_data.task import Task
from engine.tester import BaseTester
from models.Classify.exits import THRESHOLDS, exit_table
from models.Classify.quality import BASELINE, Answers, among_best, answers, majority_scores, scores, scores_of_outputs
from options.base_options import TestConfig
from options.Classify_options.test_options import ClassifyTestConfig

logger = logging.getLogger("run")


class ClassifyTester(BaseTester):
    """Measures a classifier's checkpoint by top-1 and top-5 accuracy (percent)."""

    config: ClassifyTestConfig
    higher_is_better: ClassVar[dict[str, bool]] = {"top1": True, "top5": True, "loss": False}

    @cached_property
    def task(self) -> Task:
        """Classes and form of the images, as trained."""
        return Task.from_dict(self.checkpoint["task"])

    def example_inputs(self) -> tuple[Tensor, ...]:
        """One image."""
        return (torch.zeros(1, self.task.channels, self.task.size, self.task.size, device=self.device),)

    def input_limits(self) -> tuple[Tensor, Tensor]:
        """Black and white."""
        mean, std = (torch.tensor(each, device=self.device)[:, None, None] for each in (self.task.mean, self.task.std))
        return -mean / std, (1 - mean) / std

    def test(self, model: nn.Module) -> dict[str, float]:
        """Accuracy on the test images; writes nothing."""
        return scores(self.answers(model))

    def image_scores(self, model: nn.Module) -> dict[str, list[float]]:
        """100 for each test image whose class is the first, or among the first five, else 0."""
        given = self.answers(model)
        return {f"top{k}": (100 * among_best(given, k).double()).tolist() for k in (1, 5)}

    def evaluation(self) -> Evaluation:
        """The test images, and the accuracy and loss of what a network says of them."""
        batches = [(images.to(self.device), labels) for images, labels in self.testing_loader]
        labels = torch.cat([given for _, given in batches])
        return Evaluation([images for images, _ in batches], partial(scores_of_outputs, labels), self.higher_is_better)

    def measured_on(self) -> dict[str, Any]:
        """The images and the classes."""
        source = self.testing_loader.dataset.store.source  # type: ignore[attr-defined]
        return {"images": f"{len(source.labels)} of {source.where}", "classes": ", ".join(self.task.classes)}

    def baseline(self) -> tuple[str, dict[str, float]]:
        """The majority class of the training images."""
        return BASELINE, majority_scores(self.testing_loader.dataset.store.labels, self.task)  # type: ignore[attr-defined]

    def answers(self, model: nn.Module) -> Answers:
        """What the network says of the test images."""
        return answers(model, self.testing_loader, self.device)

    def run(self, opt: TestConfig | None = None) -> dict[str, Any]:
        """Measures; with `--predict` writes what the network takes each image for instead."""
        self.take(opt)
        return self.predict() if self.config.predict is not None else super().run()

    def details(self, model: nn.Module) -> dict[str, Any]:
        """Accuracy of each class; the confusion matrix is written beside the summary."""
        given = self.answers(model)
        confusion = Confusion.of(self.task.classes, given.labels, given.logits.argmax(1))
        logger.info("%s", confusion.table())
        for path in confusion.write(self.results):
            logger.info("written: %s", path)
        return {"classes": confusion.rows(), "confusion": confusion.matrix_rows(), **self._exits(model)}

    def _exits(self, model: nn.Module) -> dict[str, Any]:
        """Accuracy against average MACs, of a network with early exits."""
        names: list[str] = getattr(model, "exit_names", [])
        if not names:
            return {}
        image = self.example_inputs()[0]
        rows = [each.to_dict() for each in exit_table(model, self.testing_loader, self.device, image, THRESHOLDS)]
        logger.info("early exits behind %s, and the end:\n%s", ", ".join(names), tabulate(rows, "keys"))
        return {"exits": rows}

    def predict(self) -> dict[str, Any]:
        """Writes `predictions.csv`: image, class, probability."""
        given = self.answers(self.build_model())
        sure, label = given.logits.softmax(1).max(1)
        path = self.results / "predictions.csv"
        names = self.testing_loader.dataset.source.names  # type: ignore[attr-defined]
        found = zip(names, label.tolist(), sure.tolist(), strict=True)
        rows = [[name, self.task.classes[place], f"{probability:.4f}"] for name, place, probability in found]
        write_csv(path, ["image", "class", "probability"], rows)
        logger.info("written: %s, %d images", path, len(names))
        return {"predictions": str(path), "images": len(names)}
