"""Confusion matrix and accuracy of classes against scikit-learn's."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from apputils.Classify_apputils.confusion import Confusion


def test_counts_against_scikit_learn(tmp_path: Path) -> None:
    labels, answers = torch.randint(0, 5, (200,)), torch.randint(0, 5, (200,))
    confusion = Confusion.of(list("abcde"), labels, answers)
    assert np.array_equal(confusion.counts.numpy(), confusion_matrix(labels, answers))
    rows = confusion.rows()
    assert [row["accuracy"] for row in rows] == pytest.approx(100 * recall_score(labels, answers, average=None))
    assert [row["precision"] for row in rows] == pytest.approx(100 * precision_score(labels, answers, average=None))
    confusion.write(tmp_path / "r")
    matrix = list(csv.reader((tmp_path / "r/confusion.csv").read_text().splitlines()))
    assert matrix[0] == ["true class", *"abcde"]
    assert [int(each) for each in matrix[3][1:]] == confusion.counts[2].tolist()
    assert [list(row.values())[1:] for row in confusion.matrix_rows()] == confusion.counts.tolist()
    assert list(confusion.matrix_rows()[0])[:2] == ["true class", "as a"]
    assert (tmp_path / "r/confusion.png").stat().st_size > 1000


def test_a_class_without_images_has_no_accuracy() -> None:
    rows = Confusion.of(["a", "b", "c"], torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])).rows()
    assert [row["accuracy"] for row in rows] == [50.0, 100.0, None]
    assert [row["precision"] for row in rows] == [100.0, 50.0, None]
    assert [row["most often taken for"] for row in rows] == ["b", "", ""]
