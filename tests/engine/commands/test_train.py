"""`--plan`, `--smoke`, `--list-weights`, `--new-schedule`: what `train.py` does beside training."""

import logging
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from compress.config import file_config
from compress.config.templates.new_schedule import families
from compress.errors import UserError
from engine.commands.train import act
from engine.trainer import BaseTrainer
from models.C2SRCNN.model import Net
from options.applications import find_application
from options.command import schedule_command
from options.Normal_options.train_options import TrainOptions
from tests.engine.conftest import TrainerOf
from tests.models.Classify.conftest import ClassifierOf, classifier_of  # noqa: F401
from tests.models.Classify.test_tester import evaluate

FILES = sorted((Path(__file__).resolve().parents[3] / "schedules" / "SR").glob("*.yaml"))
SCHEDULES = [path for path in FILES if "policies:" in path.read_text()]  # the others are for `test.py --quantize`
TINY = ["--traindata=images/train", "--samples=24", "--patch_size=24", "--batchSize=4"]


def run(*arguments: str) -> None:
    act(find_application("SR"), TrainOptions().parse([*TINY, *arguments]))


def test_plan_prints_a_table_and_draws(trainer_of: TrainerOf, capsys: pytest.CaptureFixture[str]) -> None:
    run("--compress=schedule.yaml", "--plan", "--run=p")
    text = capsys.readouterr().out
    assert "agp (4), lr" in text
    assert "50.00 %" in text
    assert Path("p-plan.png").read_bytes().startswith(b"\x89PNG")
    assert not any(Path(folder).exists() for folder in ("checkpoints", "logs", "results"))


def test_plan_says_that_the_run_cuts_the_schedule_short(
    trainer_of: TrainerOf, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    short = "the run ends after 2 epochs, inside 'agp' (epochs 0..2): it reaches 45.0 % instead of 50.0 %"
    run("--compress=schedule.yaml", "--plan", "--nEpochs=2")
    assert caplog.text.count(short) == 1
    assert "45.00 %" in capsys.readouterr().out
    with pytest.raises(UserError, match=re.escape(short)):  # a warning, so an error here
        run("--compress=schedule.yaml", "--plan", "--nEpochs=2", "--strict")
    caplog.clear()
    run("--compress=schedule.yaml", "--plan", "--nEpochs=3", "--strict")
    assert "inside" not in caplog.text


def test_list_weights_prints_names_ready_to_paste(trainer_of: TrainerOf, capsys: pytest.CaptureFixture[str]) -> None:
    run("--list-weights")
    text = capsys.readouterr().out
    named = [name for name, parameter in Net(2).named_parameters() if parameter.dim() > 1]
    assert yaml.safe_load(text) == {"weights": named}
    row = next(line for line in text.splitlines() if line.startswith("      - mid_part.1.weight "))
    assert re.search(r"# 32 x 32 x 3 x 3 +9,216  Conv2d$", row)
    pruner = f"pruners:\n  p:\n    class: NMPruner\n    n: 1\n    m: 1\n{text}"
    assert yaml.safe_load(pruner)["pruners"]["p"]["weights"] == named


def test_list_groups_tells_what_goes_together_and_why_the_rest_stays(
    trainer_of: TrainerOf, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--list-groups")
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if line.startswith("mid_part.1.weight[0] "))
    assert row.split()[1:4] == ["32", "31", "577"]  # 9 * 32 of the filter, its bias, 9 * 32 of its readers
    assert row.endswith("mid_part.1.weight[0], mid_part.1.bias[0], mid_part.3.weight[1]")
    assert "network output" in text


@pytest.mark.parametrize("family", families())
def test_a_new_schedule_is_good_for_the_network_as_it_stands(
    trainer_of: TrainerOf, capsys: pytest.CaptureFixture[str], family: str
) -> None:
    run(f"--new-schedule={family}")
    Path("new.yaml").write_text(capsys.readouterr().out)
    model = Net(2)
    scheduler = file_config(model, torch.optim.Adam(model.parameters(), 1e-3), "new.yaml", strict=True)
    assert scheduler.preview().rows


def test_plan_needs_a_schedule(trainer_of: TrainerOf) -> None:
    with pytest.raises(UserError, match="--plan is about a schedule; name one with --compress"):
        run("--plan")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_a_device_that_is_not_there_is_told_before_data_are_loaded(trainer_of: TrainerOf) -> None:
    with pytest.raises(UserError, match="--device=cuda: this machine offers no CUDA device"):
        act(find_application("SR"), TrainOptions().parse(["--traindata=.", "--device=cuda"]))


def test_an_unknown_family_lists_those_that_exist(trainer_of: TrainerOf) -> None:
    with pytest.raises(UserError, match="--new-schedule=nope: unknown family; there are: agp"):
        run("--new-schedule=nope")


def test_two_modes_at_once_are_refused(trainer_of: TrainerOf) -> None:
    with pytest.raises(UserError, match="--plan excludes .*--list-weights.*; give one of them"):
        run("--plan", "--list-weights")


def test_smoke_fires_every_policy_and_says_what_it_changed(trainer_of: TrainerOf, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    run("--compress=schedule.yaml", "--smoke")
    assert "masks of 4 weights" in caplog.text
    assert "learning rate of group 0" in caplog.text
    assert "the smoke run passed" in caplog.text
    assert not Path("checkpoints").exists()


FAST = (
    "agp_prune.yaml",
    "qat_int8.yaml",
)  # the others are of the slow tier; all are planned in tests/test_schedules.py


@pytest.mark.parametrize(
    "schedule",
    [pytest.param(each, id=each.name, marks=() if each.name in FAST else pytest.mark.slow) for each in SCHEDULES],
)
def test_every_shipped_schedule_passes_a_smoke_run(trainer_of: TrainerOf, caplog: Any, schedule: Path) -> None:
    caplog.set_level(logging.INFO)
    command = re.findall(r"python train\.py (--optform=.*)", schedule.read_text().split("version:")[0])[-1]
    network = [word for word in command.split() if word.startswith(("--arch", "--width", "--depth", "--bicubic"))]
    run(f"--compress={schedule}", "--smoke", *network)
    assert "the smoke run passed" in caplog.text


def test_smoke_fails_when_a_policy_changes_nothing(trainer_of: TrainerOf) -> None:
    text = Path("schedule.yaml").read_text().replace("milestones: [1, 3]", "milestones: [100]")
    Path("idle.yaml").write_text(text)
    with pytest.raises(UserError, match="the smoke run failed: lr fired and changed nothing"):
        run("--compress=idle.yaml", "--smoke")


def test_smoke_needs_a_schedule(trainer_of: TrainerOf) -> None:
    with pytest.raises(UserError, match="name one with --compress"):
        run("--smoke")


def test_the_originals_three_hundred_epochs_smoke_in_a_few(trainer_of: TrainerOf, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    original = Path(__file__).resolve().parents[2] / "original_schedules" / "agp_prune.yaml"
    run(f"--compress={original}", "--smoke")
    assert [record.args[0] for record in caplog.records if record.msg.startswith("epoch")] == [0, 150, 299]
    assert "masks of 6 weights" in caplog.text


# A written schedule names the command that trains its network, which the schedule then fits.


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
