"""A written schedule names the command that trains its network, which the schedule then fits."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.commands.train import act
from engine.trainer import BaseTrainer
from options.applications import find_application
from options.command import schedule_command
from tests.models.Classify.conftest import ClassifierOf, classifier_of  # noqa: F401
from tests.models.Classify.test_tester import evaluate

NETWORKS = [
    ["--optform=SR", "--upscale-factor=3"],
    ["--optform=Classify", "--arch=resnet20", "--width-mult=0.25", "--exits=layer1,layer2", "--size=24"],
    ["--optform=Classify", "--arch=studentnet", "--base=8", "--channels=3", "--size=16"],
    ["--optform=Deblur", "--netG=mobile", "--ngf=4", "--blocks=2", "--norm=instance"],
]


def built(words: list[str]) -> BaseTrainer:
    """The trainer of a command, without data."""
    application = find_application(words[0].removeprefix("--optform="))
    trainer: BaseTrainer = application.load("trainer")(application.load("train_options")().parse(words), None, None)
    trainer.build()
    return trainer


def shapes(trainer: BaseTrainer) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize("words", NETWORKS, ids=lambda words: words[1])
def test_a_new_schedule_fits_the_network_of_its_command(
    words: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    application = find_application(words[0].removeprefix("--optform="))
    config = application.load("train_options")().parse([*words, "--new-schedule=level"])
    act(application, config)
    Path("new.yaml").write_text(capsys.readouterr().out)
    [command] = re.findall(r"# python train.py (.*) --compress=THIS_FILE", Path("new.yaml").read_text())
    trainer = built([*shlex.split(command), "--compress=new.yaml", "--strict"])
    assert trainer.compression_scheduler.scheduled_weights
    wanted: Any = application.load("trainer")(config, None, None)
    wanted.build()
    assert shapes(trainer) == shapes(wanted)


def test_a_suggested_schedule_fits_the_network_of_its_command(
    classifier_of: ClassifierOf,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    trainer = classifier_of("--arch=simplenet", "--nEpochs=1", "--run=a b")
    trainer.run()
    evaluate("--no-export", "--no-report", "--sense=filter", "--write-schedule=tolerance=100")
    path = Path("results/a b/sensitivity_filter.yaml")
    [command] = re.findall(r"#   python train.py (.*)", path.read_text())
    assert f"python train.py {command} trains it" in caplog.text
    again = built([*shlex.split(command), "--strict"])
    assert again.config.traindata == "images"
    assert shapes(again) == shapes(trainer)
    assert again.compression_scheduler.scheduled_weights


def test_what_a_file_keeps_as_options_stays_one_line() -> None:
    command = schedule_command("Classify", {"arch": "resnet20\nversion: 2", "compress": "a.yaml", "nEpochs": 3})
    assert command == r"python train.py --optform=Classify --seed=0 '--arch=resnet20\nversion: 2'"
