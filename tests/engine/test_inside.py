"""What training sends of the network's inside to TensorBoard and CSV."""

import csv
from pathlib import Path

import torch

from data.restoration import RestorationItem
from models.SR.tester import XSRCNNTester
from tests.apputils.runs.test_logger import events
from tests.engine.conftest import TrainerOf


def test_histograms_activations_and_images_are_written_and_change_nothing(trainer_of: TrainerOf) -> None:
    plain, trainer = (
        trainer_of("--compress=schedule.yaml", f"--run={name}", "--nEpochs=2", *extra)
        for name, extra in (("plain", []), ("a", ["--histograms", "--activation-stats"]))
    )
    plain.run()
    trainer.run()
    for mine, other in zip(plain.model.state_dict().values(), trainer.model.state_dict().values(), strict=True):
        assert torch.equal(mine, other)
    found = events(Path("logs/a"))
    tags = {tag for tag, _ in found}
    assert {"loss", "psnr", "lr", "sparsity", "sparsity/mid_part.1.weight", "weights/mid_part.1.weight"} <= tags
    weight = trainer.compression_scheduler.model.get_parameter("mid_part.1.weight")
    assert found["weights/mid_part.1.weight", 1].histo.num == int(torch.count_nonzero(weight))  # type: ignore[attr-defined]
    assert found["images/output_bicubic_target", 0].image.width == 3 * 48  # type: ignore[attr-defined]
    with Path("logs/a/activations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["epoch"] for row in rows} == {"0", "1"}
    relu = next(row for row in rows if row["layer"] == "mid_part.2")
    assert 0 < float(relu["sparsity"]) < 1


def test_a_tester_of_images_cuts_those_that_are_large_enough() -> None:
    tester = object.__new__(XSRCNNTester)
    low = [torch.rand(3, 6, 8), torch.rand(3, 5, 9), torch.rand(3, 4, 9)]
    high = [each.repeat_interleave(2, 1).repeat_interleave(2, 2) for each in low]
    tester.testing_loader = [RestorationItem("x", a, b, b) for a, b in zip(low, high, strict=True)]  # type: ignore[assignment]
    found = tester.cropped((1, 3, 5, 7))
    assert found is not None
    first, second = found.testing_loader
    torch.testing.assert_close(first.degraded, low[0][:, :5, :7], rtol=0, atol=0)
    torch.testing.assert_close(second.target, high[1][:, :, 2:16], rtol=0, atol=0)
    assert tester.cropped((1, 3, 5, 10)) is None


def test_the_centre_of_a_image_is_cut_alike_from_all_its_versions() -> None:
    low = torch.arange(3 * 10 * 6.0).reshape(3, 10, 6)
    high = low.repeat_interleave(2, 1).repeat_interleave(2, 2)
    cut = RestorationItem("x", low, high, high).middle(4, 4)
    assert torch.equal(cut.degraded, low[:, 3:7, 1:5])
    assert torch.equal(cut.target, cut.degraded.repeat_interleave(2, 1).repeat_interleave(2, 2))
