"""Every architecture of super-resolution under training, pruning, thinning, 8 bits, export and resuming."""

import json
from collections.abc import Callable

import pytest
import torch

from compress.errors import ScheduleError
from models.C2SRCNN.solver import C2SRCNNTrainer
from models.SR.tester import XSRCNNTester
from models.SR.zoo import ZOO
from tests.engine.conftest import TrainerOf
from tests.models.architecture_matrix import check_agp_and_resume, check_fewer_macs, check_int8
from tests.models.SR.test_zoo import SMALL

ARCHS = [pytest.param(arch, id=arch) for arch in ZOO.architectures]
TesterOf = Callable[[str], XSRCNNTester]


def chosen(arch: str) -> list[str]:
    return [f"--arch={arch}", f"--arch-args={json.dumps(SMALL[arch])}", "--lr=1e-3"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(C2SRCNNTrainer, "example_inputs", lambda self: (torch.zeros(1, 3, 24, 24),))


@pytest.mark.parametrize("arch", ARCHS)
def test_an_epoch_lowers_the_loss(trainer_of: TrainerOf, arch: str) -> None:
    trainer = trainer_of(*chosen(arch), "--nEpochs=1")
    trainer.build()
    batch = next(iter(trainer.training_loader))
    before = float(trainer.loss_to_measure(batch))
    for epoch in range(4):
        trainer.train(epoch, trainer.compression_scheduler)
        trainer.progress.middle = None
    assert float(trainer.loss_to_measure(batch)) < before


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_agp_and_resuming(trainer_of: TrainerOf, arch: str) -> None:
    check_agp_and_resume(trainer_of, chosen(arch))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_fewer_macs(trainer_of: TrainerOf, tester_of: TesterOf, arch: str) -> None:
    check_fewer_macs(trainer_of, tester_of, chosen(arch), torch.zeros(1, 3, 24, 24), 0.7)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_int8(trainer_of: TrainerOf, tester_of: TesterOf, arch: str) -> None:
    if arch == "ecbsr":  # its blocks are quantized after they are fused: tests/compress/policies/test_fusing.py
        with pytest.raises(ScheduleError, match="nothing of this ECBSR would be quantized"):
            check_int8(trainer_of, tester_of, chosen(arch))
        return
    check_int8(trainer_of, tester_of, chosen(arch))
