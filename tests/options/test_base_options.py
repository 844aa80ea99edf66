"""Command lines: typed options, clear refusals, where schedules are found."""

import re
import sys
from pathlib import Path

import pytest

from compress.config.templates.new_schedule import families
from compress.errors import UserError
from options.applications import APPLICATIONS, find_application, named_on_command_line
from options.base_options import GROUPS
from options.Normal_options.test_options import TestOptions
from options.Normal_options.train_options import TrainOptions
from options.schedules import find_schedule

GROUPS_NAMES = [name for names in GROUPS.values() for name in names]


def test_defaults_and_what_was_given() -> None:
    config = TrainOptions().parse(["--batchSize=4", "--lr", "1e-2", "--amp"])
    assert (config.batchSize, config.lr, config.amp, config.upscale_factor) == (4, 0.01, True, 2)
    assert config.explicit == {"batchSize", "lr", "amp"}


def test_every_promised_option_exists() -> None:
    promised = [
        "optform", "compress", "traindata", "upscale_factor", "batchSize", "nEpochs", "lr", "seed", "run", "resume",
        "device", "workers", "amp", "compile", "threads", "ema",
    ]  # fmt: skip
    config = TrainOptions().parse([])
    assert all(hasattr(config, name) for name in promised)
    assert all(hasattr(TestOptions().parse([]), name) for name in ("model", "testdata", "run", "optform"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batchsize=4"], "unknown option '--batchsize'; did you mean '--batchSize'"),
        (["--batchSize=x"], "--batchSize: given 'x', it must be a whole number"),
        (["--batchSize=0"], "given 0, it must be 1 or more"),
        (["--upscale_factor=5"], "choose from 2, 3, 4"),
        (["--lr=nan"], "--lr: given nan, it must be a finite number"),
        (["--patch_sise=3"], "unknown option '--patch-sise'; did you mean '--patch-size'"),
        (["--strict=yes"], "--strict: it is a switch, given without a value, not 'yes'"),
        (["--device"], "--device: expected one argument"),
        (["agp.yaml"], "'agp.yaml' belongs to no option; give a schedule by --compress=FILE"),
        (["--nEp=3"], "unknown option '--nEp'"),
        (["--diagnose"], "error: --diagnose belongs to test.py; nothing was started"),
        (["--minutes=3"], "error: --minutes belongs to search.py; nothing was started"),
        (["--base_lr=3"], "unknown option '--base-lr'"),
    ],
)
def test_wrong_options_end_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        TrainOptions().parse(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def help_of(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        TrainOptions().parse(["--help"])
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_shows_one_spelling_with_defaults_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys)
    assert "_" not in re.sub(r"--some_name|schedules/<optform>|logs/<run>", "", " ".join(re.findall(r"--\S+", text)))
    assert not re.findall(r"--no-(?!NAME)", text)
    assert "--batchSize N number of crops in a minibatch of one process (default: 8)" in text
    for title in (*GROUPS, "of SR"):
        assert f"{title}:" in text
    for name in GROUPS_NAMES:
        assert f"--{name.replace('_', '-')} " in text


def test_help_lists_the_families_of_new_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    assert f"FAMILY: {', '.join(families())}" in help_of(capsys)


def test_both_spellings_are_one_option() -> None:
    for given in ("--new_schedule=group_lasso", "--new-schedule=group_lasso"):
        assert TrainOptions().parse([given]).new_schedule == "group_lasso"
    assert TrainOptions().parse(["--patch_size", "32"]).patch_size == 32
    assert not TrainOptions().parse(["--amp", "--no-amp"]).amp
    assert TrainOptions().parse(["--no-amp"]).explicit == {"amp"}


def test_the_application_is_found_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert named_on_command_line("--optform", ["--lr", "1", "--optform", "X"]) == "X"
    monkeypatch.setattr(sys, "argv", ["train.py", "--optform=SR"])
    assert named_on_command_line("--optform") == "SR"
    assert named_on_command_line("--optform", []) is None


def test_an_unknown_application_lists_those_that_exist() -> None:
    with pytest.raises(UserError, match="unknown application .Sr.; --optform is one of SR .super-resolution"):
        find_application("Sr")


@pytest.mark.parametrize("name", sorted(APPLICATIONS))
def test_every_part_of_every_application_is_there(name: str) -> None:
    application = APPLICATIONS[name]
    for part in ("train_options", "test_options", "training_loaders", "testing_loader", "trainer", "tester"):
        assert callable(application.load(part))


def test_a_schedule_is_looked_up_as_given_then_in_its_application(here: Path) -> None:
    found = Path(find_schedule("agp_prune.yaml", "SR"))
    assert found.parts[-3:] == ("schedules", "SR", "agp_prune.yaml")
    (here / "agp_prune.yaml").write_text("version: 1")
    assert find_schedule("agp_prune.yaml", "SR") == "agp_prune.yaml"


def test_a_missing_schedule_may_be_one_of_the_present_folder(here: Path) -> None:
    (here / "mine.yaml").write_text("version: 1")
    with pytest.raises(UserError, match="did you mean 'mine.yaml'"):
        find_schedule("mine.yml", "SR")


def test_a_missing_schedule_says_what_is_there(here: Path) -> None:
    with pytest.raises(UserError, match=r"--compress=agp.yaml: no such file .*; did you mean .*'agp_prune.yaml'"):
        TrainOptions().parse(["--compress=agp.yaml"])
