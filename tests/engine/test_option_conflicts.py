"""What cannot work together is refused before anything is written, whole in one report."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.errors import UserError
from engine import option_conflicts as combinations
from engine.option_conflicts import COMBINATIONS, Setup, refuse_combinations
from tests.engine.tiny import tiny_trainer
from tests.models.Deblur.conftest import DeblurrerOf, deblurrer_of  # noqa: F401

DISTILLED = """\
distillers:
  d: {class: KnowledgeDistillation, teacher: self}
policies:
  - {distiller: {instance_name: d}, epochs: [0]}
"""
FOLDED = """\
quantizers:
  q: {class: QuantAwareTrainRangeLinearQuantizer, bits_weights: 8, bits_activations: 8, fold_batchnorm: true}
policies:
  - {quantizer: {instance_name: q}, epochs: [0]}
"""
CASES: list[tuple[list[str], dict[str, Any], str]] = [
    (["--accumulate=2"], {"schedule": DISTILLED}, "--accumulate with a distiller: a distiller compares"),
    (
        ["--accumulate=30", "--batchSize=4"],
        {},
        "--accumulate: one update would take more minibatches than an",
    ),
    (["--sync-batchnorm"], {"bn": True}, "--sync-batchnorm: there is one process"),
    (["--sync-batchnorm"], {"bn": True}, "--sync-batchnorm on a CPU: SyncBatchNorm needs CUDA devices"),
    (["--sync-batchnorm"], {}, "--sync-batchnorm: the network has no BatchNorm"),
    (["--sync-batchnorm"], {"bn": True, "schedule": FOLDED}, "--sync-batchnorm with fold_batchnorm"),
    (["--check-ranks"], {}, "--check-ranks: there is one process and nothing to compare"),
]


@pytest.mark.parametrize(("options", "more", "message"), CASES, ids=[case[2].split(":")[0] for case in CASES])
def test_what_cannot_work_is_refused(
    here: Path, options: list[str], more: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "on a CPU" in message:  # said where there are several processes
        monkeypatch.setattr(combinations, "world_size", lambda: 2)
    trainer = tiny_trainer("--run=a", *options, **more)
    with pytest.raises(UserError, match=message):
        trainer.prepare()
    assert not (here / "logs").exists()


def test_a_gan_is_not_accumulated(deblurrer_of: DeblurrerOf) -> None:  # noqa: F811
    with pytest.raises(UserError, match="--accumulate with a GAN: the discriminator would be updated"):
        deblurrer_of("--accumulate=2").build()


def test_several_processes_are_not_compiled(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combinations, "world_size", lambda: 2)
    with pytest.raises(UserError, match="--compile in several processes: torch.compile together with"):
        tiny_trainer("--compile").build()


def test_several_faults_are_one_report(here: Path) -> None:
    with pytest.raises(UserError, match="more minibatches than an epoch.*; --check-ranks: there is one process"):
        tiny_trainer("--accumulate=900", "--check-ranks").build()


def test_every_combination_has_a_case() -> None:
    known = " ".join(case[2] for case in CASES) + "--accumulate with a GAN --compile in several processes"
    assert all(each.options in known for each in COMBINATIONS)
    assert len(COMBINATIONS) == len(CASES) + 2


def test_what_can_work_passes(here: Path) -> None:
    trainer = tiny_trainer("--accumulate=2", "--ema=0.9", bn=True)
    trainer.build()
    refuse_combinations(Setup(trainer.config, trainer.state, trainer.device, trainer.training_loader))


def test_several_processes_may_be_checked(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combinations, "world_size", lambda: 2)
    tiny_trainer("--check-ranks").build()


class Mlp(nn.Module):
    """A BatchNorm over the samples alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, 6, 6) -> (n, 3)."""
        out: torch.Tensor = self.body(x)
        return out


def _setup(trainer: Any) -> Setup:
    trainer.build()
    probe = trainer.example_inputs(), (1, 3)
    return Setup(trainer.config, trainer.state, trainer.device, trainer.training_loader, [probe])


@pytest.mark.parametrize(("size", "message"), [
    (99, "the last minibatch of an epoch has one, which .*: body.2 .BatchNorm1d. raises ValueError: Expected more than "
     "1 value per channel.*; give another --batchSize, such as 98. Nothing was started"),
    (1, "each minibatch has one, which .* such as 2"),
])  # fmt: skip
def test_a_minibatch_of_one_that_the_network_cannot_take_is_refused(here: Path, size: int, message: str) -> None:
    trainer = tiny_trainer("--run=a", f"--batchSize={size}")
    trainer.build_model = Mlp  # type: ignore[method-assign]
    setup = _setup(trainer)
    with pytest.raises(UserError, match=f"--batchSize={size}: of 100 samples {message}"):
        refuse_combinations(setup)


@pytest.mark.parametrize("size", [98, 99])
def test_a_minibatch_of_one_is_fine_where_the_network_takes_it(here: Path, size: int) -> None:
    trainer = tiny_trainer("--run=a", f"--batchSize={size}", bn=True)  # a BatchNorm over 6 x 6 pixels
    setup = _setup(trainer)
    refuse_combinations(setup)
    assert trainer.model.training
    assert int(trainer.model.bn1.num_batches_tracked) == 0  # type: ignore[union-attr, arg-type]
