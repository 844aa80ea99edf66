"""The tester: classes of the checkpoint, confusion matrix, predictions, early exits."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from apputils.checkpoints.file import load_checkpoint
from apputils.runs.folders import recorded_optform
from compress.errors import UserError
from data.Classify_data.loaders import classify_testing_loader
from engine.saved.find_checkpoint import find_subject
from models.Classify.tester import ClassifyTester
from options.Classify_options.test_options import TestOptions
from tests.models.Classify.conftest import ClassifierOf


def evaluate(*arguments: str) -> dict:
    opt, checkpoint = find_subject(TestOptions().parse(list(arguments)))
    return ClassifyTester(opt, classify_testing_loader(opt, checkpoint)).run(opt)


def test_the_test_part_of_the_training_data_is_measured(classifier_of: ClassifierOf) -> None:
    classifier_of("--nEpochs=4", "--run=a").run()
    summary = evaluate("--no-export", "--sense=none")
    assert json.loads(Path("results/a/test_summary.json").read_text()) == summary
    classes = summary["details"]["classes"]
    assert [row["class"] for row in classes] == ["dark", "grey", "light"]
    assert [row["images"] for row in classes] == [4, 4, 4]
    mean = sum(row["accuracy"] for row in classes) / 3
    assert summary["quality"]["top1"]["model"] == pytest.approx(mean)
    assert [row[f"as {row['true class']}"] for row in summary["details"]["confusion"]] == [
        round(row["accuracy"] * 4 / 100) for row in classes
    ]
    page = Path("results/a/report.html").read_text()
    assert 'aria-label="classes"' in page
    assert 'aria-label="confusion"' in page
    assert {"classes.csv", "confusion.csv", "confusion.png"} <= {each.name for each in Path("results/a").iterdir()}
    assert recorded_optform(None, None) == recorded_optform("a", None) == "Classify"
    assert recorded_optform(None, "checkpoints/a/best.pt") == "Classify"
    assert recorded_optform(None, "elsewhere/best.pt") is None


def test_other_classes_are_refused(classifier_of: ClassifierOf) -> None:
    classifier_of("--nEpochs=1", "--run=a").run()
    shutil.rmtree("images/test/dark")
    with pytest.raises(UserError, match=r"2 instead of 3\); missing: dark"):
        evaluate("--testdata=images/test")


def test_predictions_of_images_without_labels(classifier_of: ClassifierOf) -> None:
    classifier_of("--nEpochs=8", "--lr=0.01", "--run=a").run()
    for name in ("dark", "light"):
        Path("new").mkdir(exist_ok=True)
        shutil.copy(f"images/test/{name}/0.png", f"new/{name}.png")
    assert evaluate("--predict=new")["images"] == 2
    rows = list(csv.DictReader(Path("results/a/predictions.csv").read_text().splitlines()))
    assert [(row["image"], row["class"]) for row in rows] == [("dark.png", "dark"), ("light.png", "light")]
    assert all(1 / 3 < float(row["probability"]) <= 1 for row in rows)


def test_early_exits_are_reported(classifier_of: ClassifierOf) -> None:
    classifier_of("--arch=resnet20", "--width-mult=0.25", "--exits=layer1", "--nEpochs=1", "--run=a").run()
    summary = evaluate("--no-report", "--no-export", "--sense=none")
    rows = summary["details"]["exits"]
    assert rows[-1]["threshold"] == 1.0
    assert rows[0]["average_macs"] <= rows[-1]["average_macs"]
    assert all(sum(row["left"]) == pytest.approx(1) for row in rows)


# `--thin` of a classifier.


MASKED = """\
pruners:
  p: {class: L1RankedStructureParameterPruner, reg_regims: {conv2.weight: [0.5, 3D]}}
  rows: {class: L1RankedStructureParameterPruner, group_type: Rows, desired_sparsity: 0.5, weights: [fc2.weight]}
policies:
  - pruner: {instance_name: p}
    epochs: [0]
  - pruner: {instance_name: rows}
    epochs: [0]
fine_tuning_epochs: 1
"""


def test_masked_filters_and_rows_that_nothing_reads_leave(classifier_of: ClassifierOf) -> None:
    Path("masked.yaml").write_text(MASKED)
    classifier_of("--compress=masked.yaml", "--run=a").run()
    found = []
    for more in ([], ["--thin"]):
        opt, checkpoint = find_subject(
            TestOptions().parse(["--testdata=images", "--sense=none", "--no-export", "--no-report", *more])
        )
        tester = ClassifyTester(opt, classify_testing_loader(opt, checkpoint))
        found.append(tester.run(opt))
    assert found[0]["quality"]["top1"]["model"] == found[1]["quality"]["top1"]["model"]
    old, new = (load_checkpoint(Path(f"checkpoints/a/{name}.pt")) for name in ("best", "best_thin"))
    assert new["model"]["conv2.weight"].shape[0] * 2 == old["model"]["conv2.weight"].shape[0]
    assert new["model"]["fc1.weight"].shape[0] * 2 == old["model"]["fc1.weight"].shape[0]
    assert set(new["optimizer"]["state"]) == set(old["optimizer"]["state"])
    shapes = sorted(tuple(each.shape) for each in new["model"].values())
    moments = [value for state in new["optimizer"]["state"].values() for value in state.values() if value.numel() > 1]
    assert {tuple(each.shape) for each in moments} <= set(shapes)


@pytest.mark.slow
def test_a_resumed_classifier_is_thinned(classifier_of: ClassifierOf, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    Path("masked.yaml").write_text(MASKED)
    classifier_of("--compress=masked.yaml", "--run=a").run()
    classifier_of("--resume=a", "--thin", "--nEpochs=3").run()
    assert "thinned:" in caplog.text
    assert load_checkpoint(Path("checkpoints/a/last.pt"))["epoch"] == 2
