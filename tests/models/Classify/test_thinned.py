"""`--thin` of a classifier."""

from pathlib import Path

import pytest

from apputils.checkpoints.file import load_checkpoint
from data.Classify_data.loaders import classify_testing_loader
from engine.commands.find_checkpoint import find_subject
from models.Classify.tester import ClassifyTester
from options.Classify_options.test_options import TestOptions
from tests.models.Classify.conftest import ClassifierOf

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
