"""Two gloo processes: the same losses as one process, the same network on both, the same run when resumed.

All scenarios run in one pair of processes (`work`), which is what takes long; each test reads what one of them left.
"""

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing, nn

from compress.distributed import average, rank
from compress.errors import UserError
from engine.distributed.process_group import process_group
from engine.state import Companion
from tests.engine.tiny import TinyTrainer, tiny_trainer

PRUNED = """\
pruners:
  agp: {class: AutomatedGradualPruner, initial_sparsity: 0.1, final_sparsity: 0.5, weights: [fc.weight]}
  half: {class: L1RankedStructureParameterPruner, reg_regims: {conv1.weight: [0.5, 3D]}}
regularizers:
  l1: {class: L1Regularizer, reg_regims: {conv2.weight: 0.001}}
extensions:
  t: {class: FilterRemover}
policies:
  - {pruner: {instance_name: agp}, starting_epoch: 0, ending_epoch: 2, frequency: 1}
  - {pruner: {instance_name: half}, epochs: [1]}
  - {extension: {instance_name: t}, epochs: [1]}
  - {regularizer: {instance_name: l1}, starting_epoch: 0, ending_epoch: 2, frequency: 1}
"""
QUANTIZERS = {
    "pact": "{class: PACTQuantizer, bits_activations: 4, bits_weights: 4}",
    "lsq": "{class: LSQQuantizer, bits_activations: 4, bits_weights: 4}",
    "qat": "{class: QuantAwareTrainRangeLinearQuantizer, bits_activations: 8, bits_weights: 8, fold_batchnorm: true}",
}
DROPPED = """\
pruners:
  random: {class: RandomRankedFilterPruner, desired_sparsity: 0.25, weights: [conv1.weight]}
policies:
  - {pruner: {instance_name: random}, epochs: [0, 1]}
"""
TWO, ONE = ("--batchSize=2", "--check-ranks"), ("--batchSize=4",)
PARTS = ("--batchSize=1", "--accumulate=2", "--check-ranks")


def quantized(name: str) -> str:
    return f"quantizers:\n  q: {QUANTIZERS[name]}\npolicies:\n  - {{quantizer: {{instance_name: q}}, epochs: [0, 1]}}\n"


def _run(*arguments: Any, **more: Any) -> dict[str, Any]:
    trainer = tiny_trainer("--nEpochs=2", *arguments, **more)
    kept: dict[str, torch.Tensor] = {}
    with trainer.session:
        trainer.prepare()
        for epoch in range(trainer.progress.epoch, 2):
            losses = trainer.train(epoch, trainer.compression_scheduler)
            metrics = trainer.validate(trainer.model, epoch)
            trainer.compression_scheduler.on_epoch_end(epoch, trainer.optimizer, metrics)
            trainer.note_epoch(epoch, {**losses, **metrics, "lr": 0.0, "images_per_second": 1.0})
            trainer.progress.epoch = epoch + 1
            trainer.save()
            kept = {name: each.clone() for name, each in trainer.model.state_dict().items()}
    return {"losses": trainer.losses, "model": kept, "means": [row["loss"] for row in trainer.progress.history]}


def resumed_after_one_epoch() -> dict[str, Any]:
    """Stopped after the first epoch, then resumed."""
    trainer = tiny_trainer("--nEpochs=1", "--run=cut", *TWO, schedule=DROPPED, dropout=0.3)
    trainer.run()
    distributed.barrier()  # the first process has written its checkpoint
    return _run("--resume=cut", dropout=0.3)


def drifted() -> str:
    """What is said when one weight of one process is another."""
    trainer = tiny_trainer("--nEpochs=1", "--run=drifted", *TWO)
    with trainer.session:
        trainer.prepare()
        trainer.train(0, trainer.compression_scheduler)
        with torch.no_grad():
            trainer.model.conv1.weight[0, 0, 0, 0] += 1e-9 * rank()
        trainer.note_epoch(0, {"loss": 0.0, "score": 0.0, "lr": 0.0, "images_per_second": 1.0})
        trainer.progress.epoch = 1
        try:
            trainer.save()
        except UserError as e:
            return str(e)
    return ""


class RivalTrainer(TinyTrainer):
    """With a companion that `compute_loss` updates in all processes together, as a GAN's discriminator."""

    def build_companions(self) -> dict[str, Companion]:
        rival = nn.Linear(3, 1).double()
        return {"rival": Companion(rival, torch.optim.SGD(rival.parameters(), lr=0.01))}

    def compute_loss(self, batch: Any) -> torch.Tensor:
        rival, optimizer = self.companions["rival"]
        outputs = self.forward(batch[0])
        optimizer.zero_grad(set_to_none=True)
        rival(outputs.detach()).mean().backward()
        average([each.grad for each in rival.parameters() if each.grad is not None])
        optimizer.step()
        return nn.functional.cross_entropy(outputs, batch[1]) + 0.1 * rival(outputs).mean()


def poisoned(value: float, name: str) -> str:
    """What is said in each process when an input of the second one is that value."""
    plain = tiny_trainer("--nEpochs=1", f"--run={name}", *TWO)
    trainer = RivalTrainer(plain.config, plain.training_loader, plain.validation_loader)
    trainer.network = {}
    if rank() == 1:
        plain.training_loader.dataset.inputs[:, 0, 2, 2] = value  # type: ignore[attr-defined]
    try:
        trainer.run()
    except UserError as e:
        return str(e)
    return ""


SCENARIOS: dict[str, Callable[[], Any]] = {
    "pruned": lambda: _run("--run=pruned", *TWO, schedule=PRUNED),
    "unread": lambda: _run("--run=unread", *TWO, unread=True),
    "accumulated": lambda: _run("--run=accumulated", *PARTS, schedule=PRUNED),
    "whole": lambda: _run("--run=whole", *TWO, schedule=DROPPED, dropout=0.3),
    "resumed": resumed_after_one_epoch,
    **{
        name: lambda name=name: _run(f"--run={name}", *TWO, "--ema=0.9", schedule=quantized(name), bn=True)
        for name in QUANTIZERS
    },
    "drifted": drifted,
    "nan": lambda: poisoned(float("nan"), "nan"),
    "huge": lambda: poisoned(1e308, "huge"),
}


def work(number: int, folder: str, port: int) -> None:
    """One of the two processes."""
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.INFO)
    os.chdir(folder)
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}  # fmt: skip
    with process_group(torch.device("cpu")):
        for name, scenario in SCENARIOS.items():
            torch.save(scenario(), f"{name}{number}.pt")


Both = Callable[[str], tuple[Any, Any]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, free_port: int) -> Both:
    """`both("pruned")` gives what each of the two processes left of that scenario."""
    folder = tmp_path_factory.mktemp("two")
    multiprocessing.spawn(work, (str(folder), free_port), nprocs=2)

    def of(name: str) -> tuple[Any, Any]:
        first, second = (torch.load(folder / f"{name}{number}.pt", weights_only=True) for number in (0, 1))
        return first, second

    return of


def losses(results: tuple[Any, Any]) -> torch.Tensor:
    """Of the global batch, step by step."""
    return torch.tensor([each["losses"] for each in results], dtype=torch.float64).mean(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [("pruned", {"schedule": PRUNED}), ("accumulated", {"schedule": PRUNED}), ("unread", {"unread": True})],
)
def test_two_processes_have_the_losses_of_one(both: Both, here: Path, name: str, options: dict[str, Any]) -> None:
    alone = _run("--run=alone", *ONE, **options)
    assert len(alone["losses"]) == 50
    torch.testing.assert_close(
        losses(both(name)), torch.tensor(alone["losses"], dtype=torch.float64), rtol=0, atol=1e-9
    )
    for number in (0, 1):
        found = both(name)[number]
        torch.testing.assert_close(found["means"], alone["means"], rtol=0, atol=1e-9)
        assert found["model"].keys() == alone["model"].keys()
        for key, value in alone["model"].items():
            torch.testing.assert_close(found["model"][key], value, rtol=0, atol=1e-9)
    assert alone["model"]["conv1.weight"].shape[0] == (4 if "schedule" in options else 8)


@pytest.mark.slow
def test_a_run_of_two_processes_resumes_to_the_bit(both: Both) -> None:
    whole, cut = both("whole")[0], both("resumed")[0]
    assert whole["losses"][25:] == cut["losses"]
    assert all(torch.equal(whole["model"][key], cut["model"][key]) for key in whole["model"])
    assert both("whole")[0]["losses"] != both("whole")[1]["losses"]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(QUANTIZERS))
def test_quantizers_observers_and_batch_norms_agree_in_both_processes(both: Both, name: str) -> None:
    first, second = both(name)
    assert any("quantizer" in key for key in first["model"])
    assert first["losses"] != second["losses"]
    for key, value in first["model"].items():
        assert torch.equal(value, second["model"][key]), key


@pytest.mark.slow
def test_a_drifted_weight_ends_the_run_naming_it_and_the_rank(both: Both) -> None:
    for message in both("drifted"):
        assert "after epoch 0 the processes are not alike: rank 0 has another model.conv1.weight (ranks 1)" in message


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_is_told_in_both(both: Both) -> None:
    for name, words in (
        ("nan", "the minibatch itself holds numbers that are not finite"),
        ("huge", "the first module that gave numbers"),
    ):
        first, second = both(name)
        assert first == second
        assert re.match("epoch 0, step 0: the loss is (nan|inf|-inf) in process 1 of 2; ", first)
        assert words in first


@pytest.mark.slow
def test_only_the_first_process_writes(both: Both, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = next(tmp_path_factory.getbasetemp().glob("two*"))
    assert len(list((folder / "logs/pruned").glob("events*"))) == 1
    assert (folder / "logs/pruned/log.txt").read_text().count("epoch 1/1") == 1
    assert "4 samples an update = --batchSize=2 x 2 processes" in (folder / "logs/pruned/log.txt").read_text()
    saved = torch.load(folder / "checkpoints/pruned/last.pt", weights_only=True)
    assert saved["processes"] == 2
