"""Every schedule that is shipped loads, plans and says what it is for; so do the original bench's."""

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml

from apputils.runs.folders import new_run
from compress.config import file_config
from compress.config.post_training import load_post_training
from engine.best_epoch import EpochScore
from engine.commands.smoke import smoke
from engine.trainer import BaseTrainer
from models.C2SRCNN.model import Net
from options.applications import find_application
from tests.applications import CASES

ROOT = Path(__file__).resolve().parent.parent
ALL = sorted((ROOT / "schedules").rglob("*.yaml"))
AFTER_TRAINING = [path for path in ALL if "PostTrainLinearQuantizer" in path.read_text(encoding="utf-8")]
SHIPPED = [path for path in ALL if path not in AFTER_TRAINING]
ON_DATA = [path for path in SHIPPED if "--dataset=" in path.read_text(encoding="utf-8")]  # that are installed apart
MADE = [
    path for path in SHIPPED if "--traindata=dataset/" in path.read_text(encoding="utf-8")
]  # data that a script makes
LARGE = ("edsr_paper.yaml", "edsr_paper_half_macs.yaml")  # networks that take seconds to build
MARKS = {path: [pytest.mark.data] * (path in ON_DATA) + [pytest.mark.slow] * (path.name in LARGE) for path in SHIPPED}
TRAINED = [pytest.param(path, marks=MARKS[path]) for path in SHIPPED]
ORIGINAL = ROOT / "tests" / "original_schedules"
SIX = ["mid_part.0.0.weight", *(f"mid_part.{i}.weight" for i in (1, 3, 5, 7)), "mid_part.9.0.weight"]


def test_the_number_of_schedules_is_known() -> None:
    """Each application's cases say how many it has; the tests below run over all of them."""
    folders = Counter(path.relative_to(ROOT / "schedules").parts[0] for path in SHIPPED)
    assert folders == {name: own.schedules for name, own in CASES.items()}


@pytest.mark.parametrize("path", AFTER_TRAINING, ids=lambda path: path.name)
def test_settings_of_post_training_load(path: Path) -> None:
    assert f"python test.py --quantize={path.name}" in path.read_text(encoding="utf-8").split("version:")[0]
    load_post_training(Net(2), path, torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.name)
def test_every_schedule_loads_without_a_warning_and_plans(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the network that the last command in its header trains; those before it train its teachers."""
    monkeypatch.chdir(tmp_path)
    if path in MADE:
        (tmp_path / "dataset" / "photographs").mkdir(parents=True)
    trainer = trainer_of_header(path)
    assert Path(trainer.config.compress).resolve() == path
    assert trainer.compression_scheduler.preview().rows


@pytest.mark.parametrize("path", [path for path in ALL if path.parent.name != "SR"], ids=lambda path: path.name)
def test_every_schedule_was_measured_or_says_why_not(path: Path) -> None:
    """As far as those go whose figures are settled: those of SR are not among them yet."""
    header = path.read_text(encoding="utf-8").split("version:")[0]
    assert not re.search(r"not measured(?!: \w)", header, re.IGNORECASE)


@pytest.mark.slow  # those of SR are tried in tests/engine/commands/test_train.py, on small images
@pytest.mark.parametrize(
    "path",
    [path for path in SHIPPED if path.parent.name != "SR" and path not in (*ON_DATA, *MADE)],
    ids=lambda path: path.name,
)
def test_every_schedule_passes_a_smoke_run_on_the_embedded_data(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    smoke(trainer_of_header(path, with_data=True))


def trainer_of_header(path: Path, with_data: bool = False) -> BaseTrainer:
    """What the last command in a schedule's header trains; the networks of those before it are saved untrained."""
    header = path.read_text(encoding="utf-8").split("version:")[0]
    *teachers, own = re.findall(r"python train\.py (--optform=.*)", header)
    for command in teachers:
        save_untrained(built(command))
    return built(own, with_data)


def built(command: str, with_data: bool = False) -> BaseTrainer:
    """What a command would train."""
    application = find_application(command.split()[0].removeprefix("--optform="))
    strict = ["--strict"] * ("--compress" in command)
    config = application.load("train_options")().parse([*command.split(), *strict])
    loaders = application.load("training_loaders")(config) if with_data else (None, None)
    trainer: BaseTrainer = application.load("trainer")(config, *loaders)
    trainer.build()
    return trainer


def save_untrained(trainer: BaseTrainer) -> None:
    """The best checkpoint that its run would leave, before it has learned anything."""
    trainer.progress.score = EpochScore(0, True, 0.0, 0.0)
    with pytest.MonkeyPatch.context() as patch, trainer.session:
        trainer.session.take(new_run(trainer.config.run, ""))
        patch.setattr(trainer, "steps_per_epoch", lambda: 1)  # it has no data
        trainer.save()


def test_the_first_schedule_prunes_the_six_weights_from_5_to_40_percent() -> None:
    model = Net(2)
    path = ROOT / "schedules" / "SR" / "agp_prune.yaml"
    scheduler = file_config(model, torch.optim.Adam(model.parameters(), 1e-3), path)
    rows = scheduler.preview().rows
    assert list(rows[0].levels) == SIX
    assert set(rows[0].levels.values()) == {0.05}
    assert set(rows[-1].levels.values()) == {0.4}


def test_the_original_filter_schedule_loads_unchanged() -> None:
    model = Net(2)
    path = ORIGINAL / "filter_prune.yaml"
    scheduler = file_config(model, torch.optim.Adam(model.parameters(), 1e-3), path, strict=True)
    assert [type(policy).__name__ for policy in scheduler.policies] == ["PruningPolicy", "ThinningPolicy"]
    assert scheduler.scheduled_weights == SIX


def test_the_original_agp_schedule_loads_unchanged() -> None:
    model = Net(2)
    path = ORIGINAL / "agp_prune.yaml"
    scheduler = file_config(model, torch.optim.Adam(model.parameters(), 1e-3), path, epochs=300, strict=True)
    assert scheduler.suggested_epochs == 300
    rows = scheduler.preview().rows
    assert (rows[0].levels[SIX[0]], rows[299].levels[SIX[0]]) == (0.05, 0.4)
    pruner = yaml.safe_load(path.read_text())["pruners"]["conv_pruner"]
    assert scheduler.resolved["pruners"]["conv_pruner"] == pruner
