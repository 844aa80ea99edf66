"""`--precision=auto`: decided once, by this CPU and the schedule; a resumed run computes as it began."""

from pathlib import Path

import pytest
import torch

from apputils.checkpoints.file import load_checkpoint
from compress.errors import UserError
from options.Normal_options.train_options import TrainOptions
from tests.engine.conftest import TrainerOf

SPARSE = "--compress=schedule.yaml"
QUANTIZING = """\
version: 1
quantizers:
  qat: {class: QuantAwareTrainRangeLinearQuantizer, bits_activations: 8, bits_weights: 8}
policies:
  - quantizer: {instance_name: qat}
    starting_epoch: 0
    ending_epoch: 1
    frequency: 1
"""


@pytest.fixture
def amx(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A CPU that multiplies bfloat16, whatever this one does."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    return monkeypatch


@pytest.mark.slow
def test_a_run_that_began_in_bfloat16_ends_in_it_on_any_cpu(trainer_of: TrainerOf, amx: pytest.MonkeyPatch) -> None:
    trainer_of(SPARSE, "--nEpochs=2", "--precision=auto", "--run=whole").run()
    trainer_of(SPARSE, "--nEpochs=1", "--precision=auto", "--run=cut").run()
    amx.setattr(torch.cpu, "get_capabilities", dict)  # another machine
    trainer_of("--resume=cut", "--nEpochs=2").run()
    trainer_of(SPARSE, "--nEpochs=2", "--amp", "--run=amp").run()
    whole, cut, amp = (load_checkpoint(Path(f"checkpoints/{run}/last.pt"))["model"] for run in ("whole", "cut", "amp"))
    assert all(torch.equal(value, cut[name]) and torch.equal(value, amp[name]) for name, value in whole.items())


def test_what_auto_decided_is_saved(
    trainer_of: TrainerOf, amx: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "run")
    trainer_of("--nEpochs=0", "--precision=auto", "--run=a").run()
    assert "precision: bfloat16 autocast" in caplog.text
    options = load_checkpoint(Path("checkpoints/a/last.pt"))["options"]
    assert (options["precision"], options["amp"]) == ("auto", True)
    assert "amp: true" in Path("logs/a/options.yaml").read_text()


def test_auto_stays_at_float32_where_it_must_and_says_why(
    trainer_of: TrainerOf, amx: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "run")
    Path("quantizing.yaml").write_text(QUANTIZING)
    trainer = trainer_of("--compress=quantizing.yaml", "--nEpochs=1", "--precision=auto")
    trainer.set_to(None)
    assert "precision: float32: the schedule quantizes" in caplog.text
    assert not trainer.config.amp
    amx.setattr(torch.cpu, "get_capabilities", dict)
    trainer = trainer_of("--nEpochs=1", "--precision=auto")
    trainer.set_to(None)
    assert "precision: float32: this CPU has no instructions" in caplog.text
    assert not trainer.config.amp


def test_a_run_in_float32_says_what_this_cpu_could_do(
    trainer_of: TrainerOf, amx: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "run")
    trainer_of("--precision=float32").set_to(None)
    assert "precision" not in caplog.text
    trainer = trainer_of()
    trainer.set_to(None)
    assert "in which --precision=auto would train" in caplog.text
    assert not trainer.config.amp


def test_the_option_as_it_is_typed() -> None:
    assert TrainOptions().parse(["--precision=bfloat16"]).amp
    assert not TrainOptions().parse(["--precision=float32"]).amp
    with pytest.raises(UserError, match="--precision excludes --amp"):
        TrainOptions().parse(["--precision=auto", "--amp"])
    with pytest.raises(SystemExit):
        TrainOptions().parse(["--precision=half"])
