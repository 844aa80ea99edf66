"""A run whose schedule quantizes after training: its best network, its goals, what resuming does."""

from pathlib import Path

import pytest
import torch

from apputils.checkpoints.file import load_checkpoint
from apputils.runs.folders import Run
from compress.export.onnx.qdq import is_quantized
from engine.saved.after_training import float_file, quantized_at_the_end
from engine.saved.load_model import load_network
from tests.engine.conftest import TrainerOf

SCHEDULE = """version: 1
quantizers:
  ptq: {class: PostTrainLinearQuantizer, per_channel_wts: true, overrides: {'last_part.*': null}}
policies: []
quantize_after_training: ptq
"""


def test_the_best_network_is_quantized_and_the_run_can_be_resumed(trainer_of: TrainerOf) -> None:
    Path("ptq.yaml").write_text(SCHEDULE)
    trainer_of("--nEpochs=1", "--run=a", "--compress=ptq.yaml").run()
    run = Run("a")
    network = load_network(run.best)
    assert is_quantized(network)
    assert not is_quantized(load_network(run.last))
    plain, last = load_network(float_file(run)), load_network(run.last)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), last.parameters(), strict=True))
    x = torch.rand(1, 3, 24, 24)
    with torch.no_grad():
        difference = (network(x) - plain(x)).square().mean() / plain(x).square().mean()
    assert 0 < float(difference) < 1e-2
    trainer = trainer_of("--resume=a", "--nEpochs=2")
    trainer.run()
    assert is_quantized(load_network(run.best))
    assert load_checkpoint(run.last)["epoch"] == 1
    kept = load_checkpoint(run.best)["model"]
    again = quantized_at_the_end(trainer, run)["model"]  # it is quantized already
    assert all(torch.equal(a, b) for a, b in zip(kept.values(), again.values(), strict=True))


@pytest.mark.slow
def test_goals_are_those_of_the_quantized_file(trainer_of: TrainerOf) -> None:
    goals = "goals:\n  - {metric: file_bytes, at_most: 90_000}\n"  # the float file has some 180 kB
    Path("ptq.yaml").write_text(SCHEDULE + goals)
    summary = trainer_of("--nEpochs=1", "--run=a", "--compress=ptq.yaml").run()
    assert summary["goals"]["verdict"] == "met"
    assert summary["goals"]["file"].endswith("network_int8.onnx")
