"""The command that reproduces: its own parser reads the same options out of it."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest

from engine.state import plain_options
from options.applications import APPLICATIONS, find_application

CLASSIFY, DEBLUR = "--optform=Classify", "--optform=Deblur"


def written(config: Any, processes: int = 1, *testing: str) -> dict[str, str]:
    """The commands of a run with these training options."""
    evaluated = find_application(config.optform).load("test_options")().parse(list(testing))
    checkpoint = {"optform": config.optform, "options": plain_options(config), "processes": processes}
    return dict(evaluated.commands(checkpoint))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--seed=3", "--amp", "--lr=1e-4", "--nEpochs=7", "--compress=a b.yaml", "--strict", "--run=mine"],
        ["--upscale_factor=3", "--traindata=images", "--ema=0.99", "--threads=1"],
        [CLASSIFY],
        [CLASSIFY, "--traindata=images", "--arch=resnet20", "--exits=layer1", "--exit-weight=0.5", "--flip"],
        [CLASSIFY, "--weights=a b.yaml", "--match=order", "--optimizer=momentum", "--momentum=0.5", "--decay-all"],
        [CLASSIFY, "--dataset=torchvision:CIFAR10", "--download", "--weight_decay=0", "--mean-std=0.5/0.25"],
        [DEBLUR],
        [DEBLUR, "--traindata=images"],
        [DEBLUR, "--traindata=images", "--sharp-only", "--blur-length=20"],
        [DEBLUR, "--adversarial=0"],
        [DEBLUR, "--gan=wgan-gp", "--critic-steps=3", "--ndf=16"],
        [DEBLUR, "--preset=paper"],
        [DEBLUR, "--preset=paper", "--adversarial=0", "--blocks=3", "--nEpochs=5"],
    ],
)
def test_the_training_command_gives_the_same_options(here: Path, arguments: list[str]) -> None:
    (here / "images").mkdir()
    (here / "a b.yaml").write_text("")
    application = next((each for each in APPLICATIONS if f"--optform={each}" in arguments), "SR")
    parser = find_application(application).load("train_options")()
    config = parser.parse(arguments)
    words = shlex.split(written(config)["train"])
    assert words[:4] == ["python", "train.py", f"--optform={application}", f"--seed={config.seed}"]
    assert parser.parse(words[2:]) == dataclasses.replace(config, run=None)


def test_a_run_of_several_processes_is_started_as_one() -> None:
    config = find_application("SR").load("train_options")().parse(["--seed=3"])
    assert written(config, 4)["train"] == "torchrun --standalone --nproc-per-node=4 -- train.py --optform=SR --seed=3"


def test_the_run_is_trained_under_the_name_that_the_testing_command_looks_for(here: Path) -> None:
    (here / "checkpoints" / "mine").mkdir(parents=True)
    (here / "checkpoints" / "mine" / "best.pt").write_text("")
    config = find_application("SR").load("test_options")().parse(["--model=checkpoints/mine/best.pt"])
    found = config.commands({"optform": "SR", "options": {"seed": 3}, "run": "mine"})
    assert found["train"] == "python train.py --optform=SR --seed=3 --run=mine"
    assert found["test"] == "python test.py --model=checkpoints/mine/best.pt"


def test_options_of_several_values_are_read_back() -> None:
    words = shlex.split(
        written(find_application("SR").load("train_options")().parse([]), 1, "--free-axes", "1", "2")["test"]
    )
    assert find_application("SR").load("test_options")().parse(words[2:]).free_axes == (1, 2)


def test_what_other_versions_saved_stops_nothing() -> None:
    config = find_application("Deblur").load("train_options")().parse([])
    options = {**plain_options(config), "preset": "of another version", "unheard_of": 1}
    evaluated = find_application("Deblur").load("test_options")().parse([])
    found = evaluated.commands({"optform": "Deblur", "options": options})
    assert shlex.split(found["train"])[2:] == ["--optform=Deblur", "--seed=0", "--preset=of another version"]


def test_the_testing_command_gives_the_same_options(here: Path) -> None:
    (here / "a b.pt").write_text("")
    parser = find_application("SR").load("test_options")()
    evaluated = parser.parse(["--model=a b.pt", "--sense=filter", "--jobs=2", "--no-export", "--threads=1"])
    found = evaluated.commands({"optform": "SR", "options": {"seed": 0}})
    assert parser.parse(shlex.split(found["test"])[2:]) == evaluated
