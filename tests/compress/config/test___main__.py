"""`python -m compress.config`: list, show, check, schema; and the JSON Schema itself."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from compress.config.__main__ import main
from compress.config.describe import schedule_schema
from compress.config.families import FAMILIES
from compress.registry import LEVELS as LEVEL_CLASSES

ROOT = Path(__file__).resolve().parents[3]
COMMITTED = ROOT / "schedules" / "schedule.schema.json"
SHIPPED = sorted((ROOT / "schedules").rglob("*.yaml"))
NET = "tests.compress.harness:tiny_net"
GOOD: dict[str, Any] = {
    "version": 1,
    "pruners": {"p": {"class": "SparsityLevelParameterPruner", "levels": {"conv*.weight": 0.5}}},
    "policies": [{"pruner": {"instance_name": "p"}, "starting_epoch": 0, "ending_epoch": 4}],
}
GROWING = {
    "p": {
        "class": "AutomatedGradualPruner", "initial_sparsity": 0.1, "final_sparsity": 0.5, "weights": ["conv1.weight"],
    }
}  # fmt: skip


def write(folder: Path, **changes: Any) -> str:
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return str(path)


@pytest.mark.parametrize(
    ("typed", "called"),
    [
        ("/env/bin/compress-schedule", "compress-schedule"),
        ("/x/compress/config/__main__.py", "python -m compress.config"),
    ],
)
def test_help_names_the_command_as_it_was_typed(
    typed: str, called: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [typed])
    with pytest.raises(SystemExit):
        main(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: {called} [-h]")


def test_list_names_every_class(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    for family in FAMILIES:
        assert f"{family.section}:\n" in listed
        assert all(f"  {name}: " in listed for name in family.registry)


def test_show_gives_arguments_ranges_and_sample(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "AutomatedGradualPruner"]) == 0
    shown = capsys.readouterr().out
    assert "final_sparsity: number, > 0, <= 1, required" in shown
    assert "arXiv 1710.01878" in shown
    assert "Sample:" in shown
    assert "keep_mask: true or false, default False" in shown


@pytest.mark.parametrize("name", [*(name for family in FAMILIES for name in family.registry), *LEVEL_CLASSES])
def test_every_class_can_be_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name]) == 0
    assert "Arguments:" in capsys.readouterr().out


def test_show_of_an_unknown_class_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "AutomatedGradualPrunner"]) == 2
    assert "did you mean 'AutomatedGradualPruner'" in capsys.readouterr().err


def test_check_of_a_good_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", write(tmp_path), "--model", NET, "--epochs", "4", "--strict"]) == 0
    assert f"is good: 1 policies over 4 epochs act on {NET}" in capsys.readouterr().out


def test_check_says_that_a_run_ends_inside_a_policy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, pruners=GROWING)
    assert main(["check", path, "--model", NET, "--epochs", "2"]) == 0
    assert "the run ends after 2 epochs, inside 'p' (epochs 0..3): it reaches " in caplog.text
    assert main(["check", path, "--model", NET, "--epochs", "2", "--strict"]) == 2


def test_a_level_that_is_reached_already_is_not_cut_short(tmp_path: Path) -> None:
    assert main(["check", write(tmp_path), "--model", NET, "--epochs", "2", "--strict"]) == 0


def test_check_reports_every_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", write(tmp_path, version=2, prunners={}), "--model", NET]) == 2
    report = capsys.readouterr().err
    assert report.startswith("error: the schedule has 2 faults; nothing was started:")
    assert "s.yaml:" in report


@pytest.mark.parametrize("strict", [False, True])
def test_warnings_are_faults_only_if_strict(tmp_path: Path, strict: bool) -> None:
    path = write(tmp_path, lr_schedulers={"unused": {"class": "StepLR", "step_size": 3}})
    assert main(["check", path, "--model", NET, *(["--strict"] if strict else [])]) == (2 if strict else 0)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no.such.module:Net", "give MODULE:NAME of something that makes a network"),
        ("tests.compress.harness:Nothing", "give MODULE:NAME of something that makes a network"),
        ("tests.compress.harness:batch", "give MODULE:NAME of something that makes a network"),
        ("collections:OrderedDict", "made a OrderedDict, not a torch.nn.Module"),
    ],
)
def test_what_makes_no_network_is_refused(
    tmp_path: Path, model: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", write(tmp_path), "--model", model]) == 2
    assert message in capsys.readouterr().err


def test_errors_end_the_process_with_2_and_without_a_traceback() -> None:
    command = [sys.executable, "-m", "compress.config", "check", "none.yaml", "--model", "models.C2SRCNN.model:Net"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert "'none.yaml' cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_schema_writes_what_is_committed(tmp_path: Path) -> None:
    assert main(["schema", str(tmp_path / "schema.json")]) == 0
    same = (tmp_path / "schema.json").read_text() == COMMITTED.read_text()
    assert same, "schedules/schedule.schema.json is old; write it with: python -m compress.config schema"


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(json.dumps(schedule_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_schedule_validates(path: Path, validator: jsonschema.Draft202012Validator) -> None:
    text = path.read_text(encoding="utf-8")
    up = "../" * (len(path.relative_to(ROOT / "schedules").parts) - 1)
    assert text.startswith(f"# yaml-language-server: $schema={up}schedule.schema.json")
    validator.validate(yaml.safe_load(text))


def test_a_level_in_place_validates(validator: jsonschema.Draft202012Validator) -> None:
    level = {"class": "AgpLevel", "initial_sparsity": 0, "final_sparsity": 0.5}
    validator.validate({**GOOD, "pruners": {"p": {"class": "SparsityLevelParameterPruner", "levels": {"a": level}}}})


def test_the_small_schedule_validates(validator: jsonschema.Draft202012Validator) -> None:
    validator.validate(GOOD)


WINDOW = {"starting_epoch": 0, "ending_epoch": 4}
LEVELS = {"class": "SparsityLevelParameterPruner", "levels": {"a": 0.5}}
WRONG = {
    "unknown section": {"prunners": {}},
    "unknown class": {"pruners": {"p": {"class": "Prunner"}}},
    "unknown argument": {"pruners": {"p": {**LEVELS, "level": 1}}},
    "missing argument": {"pruners": {"p": {"class": "SparsityLevelParameterPruner"}}},
    "text for a number": {"pruners": {"p": {**LEVELS, "levels": {"a": "0.5"}}}},
    "out of range": {"pruners": {"p": {**LEVELS, "levels": {"a": 1.5}}}},
    "a level's unknown argument": {"pruners": {"p": {**LEVELS, "levels": {"a": {"class": "LinearLevel", "to": 1}}}}},
    "a level out of range": {"pruners": {"p": {**LEVELS, "levels": {"a": {"class": "ConstantLevel", "sparsity": 2}}}}},
    "an unknown level": {"pruners": {"p": {**LEVELS, "levels": {"a": {"class": "CubicLevel"}}}}},
    "version": {"version": 2},
    "no list": {"policies": {}},
    "two families": {"policies": [{"pruner": {"instance_name": "p"}, "regularizer": {"instance_name": "p"}, **WINDOW}]},
    "epochs and range": {"policies": [{"pruner": {"instance_name": "p"}, "epochs": [1], **WINDOW}]},
    "no epochs": {"policies": [{"pruner": {"instance_name": "p"}}]},
    "unknown args": {"policies": [{"pruner": {"instance_name": "p", "args": {"keep_masks": True}}, **WINDOW}]},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG.keys())
def test_wrong_schedules_do_not_validate(changes: dict[str, Any], validator: jsonschema.Draft202012Validator) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**GOOD, **changes})


SETTINGS = {"class": "PostTrainLinearQuantizer", "bits_activations": 8, "bits_parameters": 8}
TRAINED = {"class": "LSQQuantizer", "bits_activations": 8, "bits_weights": 8}


def test_post_training_settings_validate(validator: jsonschema.Draft202012Validator) -> None:
    validator.validate({"version": 1, "quantizers": {"ptq": SETTINGS}})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"quantizers": {}},
        {"quantizers": {"a": SETTINGS, "b": SETTINGS}},
        {"quantizers": {"a": TRAINED}},
        {"quantizers": {"a": {**SETTINGS, "bits": 8}}},
        {"quantizers": {"a": SETTINGS}, "pruners": GOOD["pruners"]},
    ],
)
def test_wrong_post_training_settings_do_not_validate(
    settings: dict[str, Any], validator: jsonschema.Draft202012Validator
) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(settings)


DISTILLED: dict[str, Any] = {
    "version": 1,
    "distillers": {"t": {"class": "KnowledgeDistillation", "teacher": "big_run"}},
    "policies": [{"distiller": {"instance_name": "t"}, "starting_epoch": 0, "ending_epoch": 4}],
}


def test_check_does_not_look_up_what_only_a_loop_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = {"class": "FeatureDistillation", "teacher": "big_run", "layers": {"conv1": "features.0"}}
    rates = {"class": "StepLR", "step_size": 2}
    schedule = {
        **DISTILLED,
        "distillers": {**DISTILLED["distillers"], "f": features},
        "lr_schedulers": {"lr": rates},
        "policies": [
            *DISTILLED["policies"],
            {"distiller": {"instance_name": "f"}, "starting_epoch": 0, "ending_epoch": 4},
            {"lr_scheduler": {"instance_name": "lr"}, "optimizer": "netD", "starting_epoch": 0, "ending_epoch": 4},
        ],
    }
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(schedule))
    assert main(["check", str(path), "--model", NET]) == 0
    said = capsys.readouterr().out
    assert "not looked up: the teacher 'big_run', which the training loop has to know" in said
    assert "not looked up: the optimizer 'netD'" in said


def test_check_still_finds_a_wrong_layer_of_the_student(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = {"class": "FeatureDistillation", "teacher": "big_run", "layers": {"conv9": "features.0"}}
    path = write(tmp_path, distillers={"f": features}, policies=[
        {"distiller": {"instance_name": "f"}, "starting_epoch": 0, "ending_epoch": 4}])  # fmt: skip
    assert main(["check", path, "--model", NET]) == 2
    assert "'conv9'" in capsys.readouterr().err


def test_check_traces_with_an_example_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pruner = {"class": "L1RankedStructureParameterPruner", "desired_sparsity": 0.5, "weights": ["*.weight"]}
    path = write(tmp_path, pruners={"p": pruner})
    assert main(["check", path, "--model", "models.C2SRCNN.model:Net", "--example-shape", "1x3x8x8", "--strict"]) == 2
    assert "whole outputs of the network become zero" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["check", path, "--model", NET, "--example-shape", "1x-3"])


def test_a_warning_is_called_one_once(tmp_path: Path) -> None:
    path = write(tmp_path, pruners=GROWING)
    command = [sys.executable, "-m", "compress.config", "check", path, "--model", NET, "--epochs", "2"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stderr
    assert found.startswith("WARNING: ")
    assert found.lower().count("warning:") == 1
