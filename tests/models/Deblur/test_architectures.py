"""Every architecture of deblurring under training, pruning, thinning, 8 bits, export and resuming."""

from collections.abc import Callable

import pytest
import torch

from apputils.checkpoints.file import load_checkpoint
from data.Deblur_data.loaders import deblur_testing_loader
from models.Deblur.solver import DeblurTrainer
from models.Deblur.tester import DeblurTester
from models.Deblur.zoo import ZOO
from options.Deblur_options.test_options import TestOptions
from tests.models.architecture_matrix import check_agp_and_resume, check_fewer_macs, check_int8
from tests.models.Deblur.conftest import DeblurrerOf

NEW = [pytest.param(arch, id=arch) for arch in ("unet", "nafnet")]  # the others have tests of their own
ARCHS = [pytest.param(arch, id=arch) for arch in ZOO.architectures]
DATA = ["--samples=6", "--patch-size=32", "--batchSize=2", "--ndf=2", "--sharp-only", "--traindata=images",
        "--blur-length=12"]  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (DeblurTrainer, DeblurTester):
        monkeypatch.setattr(each, "example_inputs", lambda self: (torch.zeros(1, 3, 32, 32),))


@pytest.fixture
def trainer_of(deblurrer_of: DeblurrerOf, monkeypatch: pytest.MonkeyPatch) -> DeblurrerOf:
    """`deblurrer_of` without options of one generator."""
    monkeypatch.setattr("tests.models.Deblur.conftest.SMALL", DATA)
    return deblurrer_of


@pytest.fixture
def tester_of() -> Callable[[str], DeblurTester]:
    def make(run: str) -> DeblurTester:
        given = TestOptions().parse([f"--model=checkpoints/{run}/best.pt", "--sense=none", "--no-report"])
        checkpoint = load_checkpoint(f"checkpoints/{run}/best.pt")
        return DeblurTester(given, deblur_testing_loader(given, checkpoint), checkpoint)

    return make


def chosen(arch: str) -> list[str]:
    return ["--optform=Deblur", f"--arch={arch}", "--ngf=4"]


@pytest.mark.parametrize("arch", NEW)
def test_an_epoch_trains_it(trainer_of: DeblurrerOf, arch: str) -> None:
    trainer = trainer_of(*chosen(arch), "--nEpochs=1")
    trainer.build()
    before = [each.detach().clone() for each in trainer.model.parameters()]
    for epoch in range(2):
        trainer.train(epoch, trainer.compression_scheduler)
        trainer.progress.middle = None
    assert all(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_agp_and_resuming(trainer_of: DeblurrerOf, arch: str) -> None:
    check_agp_and_resume(trainer_of, chosen(arch))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_fewer_macs(trainer_of: DeblurrerOf, tester_of: Callable[[str], DeblurTester], arch: str) -> None:
    check_fewer_macs(trainer_of, tester_of, chosen(arch), torch.zeros(1, 3, 32, 32), 0.8)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_int8(trainer_of: DeblurrerOf, tester_of: Callable[[str], DeblurTester], arch: str) -> None:
    check_int8(trainer_of, tester_of, chosen(arch))
