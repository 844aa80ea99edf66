"""Options that cannot go together, on the command line of every application; torch is not imported to say so."""

import importlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from compress.errors import UserError
from options.applications import APPLICATIONS
from options.Normal_options.test_options import TestOptions
from options.rules import Rule, alone, check
from tests.applications import CASES

ROOT = Path(__file__).resolve().parents[2]

SHARED_TRAINING = [
    (
        ["--plan", "--compress=.", "--smoke"],
        "--plan excludes --smoke, --list-weights, --list-groups, --list-archs",
    ),
    (["--plan"], "--plan is about a schedule; name one with --compress"),
    (["--smoke"], "--smoke is about a schedule"),
    (["--strict"], "--strict is about a schedule"),
    (
        ["--list-weights", "--run=a"],
        "--run names what is written; --smoke and options that list write nothing, so leave it out",
    ),
    (["--resume=x", "--plan"], "--plan looks at a new run's schedule, and --resume continues with a run"),
    (["--resume=x", "--run=y"], "--run names a new run, and --resume continues with one"),
    (["--resume=x"], "there is no run"),
    (["--run=../x"], "--run='../x': a run's name is one folder name"),
    (["--run=a\nb"], r"--run='a\\nb': a run's name"),
    (["--run=" + "x" * 300], "at most 100 printable characters"),
    (["--run=taken"], "--run=taken: there is a run of that name; --resume=taken continues with it"),
    (["--new-schedule=agq"], "--new-schedule=agq: unknown family; did you mean 'agp'"),
    (["--compress=."], "--compress=.: that is a folder, it holds mine.yaml; name a file"),
    (["--compress=" + "x" * 5000], "no such file here"),
    (["--traindata=nowhere"], "--traindata=nowhere: there is no such (file or )?folder"),
]
SHARED_TESTING = [
    (["--run=a", "--model=mine.yaml"], "--model excludes --run, --compare; give one of them"),
    (["--compare", "a", "--dump-features=x.npz", "--layers=x"], "--compare excludes --dump-features"),
    (["--benchmark", "--quantize=auto"], "--benchmark only measures time"),
    (["--batch=4"], "--batch belongs to --compare and --benchmark"),
    (["--bits=4"], "--bits belongs to --compare, --benchmark and --runtimes"),
    (["--layers=a"], "--layers belongs to --dump-features"),
    (["--num=3"], "--num belongs to --dump-features"),
    (["--dump-features=a.npz"], "--dump-features needs --layers"),
    (["--dump-features=a.txt", "--layers=x"], "--dump-features writes a file of the kind .npz"),
    (["--model=old.onnx", "--quantize=auto"], "--quantize needs a checkpoint, not an exported file"),
    (["--model=old.onnx", "--prune=macs=0.5"], "--prune needs a checkpoint, not an exported file"),
    (["--prune=macs=0.5", "--quantize=auto"], "--quantize excludes --compare, --dump-features, --prune, --predict"),
    (["--calibration=3"], "--calibration belongs to --quantize, --prune and --bits"),
    (["--calibration-data=generated"], "--calibration-data belongs to --quantize and --prune"),
    (["--quantize=auto", "--calibration-data=generated"], "--calibration-data generated is calibration without data"),
    (["--max-drop=1"], "--max-drop belongs to --quantize=auto"),
    (["--quantize=auto", "--bits-budget=size:0.1"], "--bits-budget belongs to --quantize=mixed"),
    (["--quantize=mixed"], "--quantize mixed needs --bits-budget"),
    (["--sense=none", "--full"], "--full belongs to the sensitivity analysis, which --sense=none leaves out"),
    (["--sense=none", "--write-schedule=0.1"], "--write-schedule belongs to the sensitivity analysis"),
    (["--baseline=a", "--quantize=auto"], "--baseline is beside the evaluation of a checkpoint"),
    (["--model=old.onnx", "--jobs=2"], "--jobs belongs to the sensitivity analysis, which .* an exported file leave"),
    (
        ["--no-export", "--reduce-range"],
        "--reduce-range is about the integer files of the export, which are not written with --no-export",
    ),
    (["--model=old.onnx", "--complete"], "--complete is about the integer files of the export, .*--model=FILE.onnx"),
    (["--free-axes=1", "--fixed-size"], "--free-axes frees sizes, and --fixed-size fixes them"),
    (
        ["--no-export", "--fixed-size"],
        "--fixed-size is about the exported ONNX file, which is not written with --no-export",
    ),
    (
        ["--no-export", "--free-axes=1"],
        "--free-axes is about the exported ONNX file, which is not written with --no-export",
    ),
    (
        ["--dump-features=a.npz", "--layers=a", "--reduce-range"],
        "--reduce-range is about the integer files of the export",
    ),
    (["--dump-features=a.npz", "--layers=a", "--complete"], "--complete is about the integer files of the export"),
    (["--run=never"], "there is no run"),
    (["--model=nowhere"], "--model=nowhere: there is no such file"),
    (["--testdata=nowhere"], "--testdata=nowhere: there is no such (file or )?folder"),
]
REFUSED = [
    (name, part, *case)
    for name, own in CASES.items()
    for part, shared in (("train_options", SHARED_TRAINING), ("test_options", SHARED_TESTING))
    for case in (*shared, *own.refused.get(part, []))
]
BEYOND = [(name, part, *case) for name, own in CASES.items() for part, cases in own.beyond.items() for case in cases]


@pytest.fixture
def place(here: Path) -> Path:
    """A present folder with a run's logs, a schedule and an exported file."""
    (here / "logs" / "taken").mkdir(parents=True)
    (here / "mine.yaml").write_text("version: 1")
    (here / "old.onnx").write_bytes(b"")
    return here


@pytest.mark.parametrize(("name", "part", "arguments", "message"), REFUSED)
def test_what_cannot_work_is_refused(place: Path, name: str, part: str, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        APPLICATIONS[name].load(part)().parse(arguments)


@pytest.mark.parametrize(("name", "part", "arguments", "message"), BEYOND)
def test_values_beyond_what_can_work(
    capsys: pytest.CaptureFixture[str], name: str, part: str, arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        APPLICATIONS[name].load(part)().parse(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("part", ["train_options", "test_options"])
@pytest.mark.parametrize("name", APPLICATIONS)
def test_every_rule_of_an_application_is_tested(name: str, part: str) -> None:
    module = importlib.import_module(getattr(APPLICATIONS[name], part).split(":")[0])
    tested = " ".join(word for arguments, _ in CASES[name].refused.get(part, []) for word in arguments)
    for rule in getattr(module, "RULES", ()):
        assert any(option.replace("_", "-") in tested for option in rule.options), rule


def test_all_faults_are_told_at_once_and_nothing_else_is_a_fault(place: Path) -> None:
    options = APPLICATIONS["Classify"].load("train_options")()
    with pytest.raises(UserError) as refused:
        options.parse(["--exit-weight=0.5", "--match=order", "--traindata=nowhere"])
    assert str(refused.value).count("\n") == 3
    config = options.parse(["--exits=layer1", "--exit-weight=0.5", "--optimizer=momentum", "--momentum=0.5"])
    assert config.exit_weight == 0.5


def test_small_crops_are_for_a_generator_alone() -> None:
    options = APPLICATIONS["Deblur"].load("train_options")()
    assert options.parse(["--patch-size=16", "--adversarial=0"]).patch_size == 16
    assert options.parse(["--patch-size=24"]).patch_size == 24


def test_choices_of_integer_files_go_with_what_exports() -> None:
    options = APPLICATIONS["SR"].load("test_options")()
    assert options.parse(["--reduce-range", "--complete"]).complete
    assert options.parse(["--reduce-range", "--quantize=auto"]).reduce_range


def test_narrow_formats_go_with_one_runs_files_and_nowhere_in_silence() -> None:
    for given in ([], ["--runtimes"], ["--no-export", "--bundle=new"], ["--no-export", "--runtimes"]):
        assert TestOptions().parse(["--formats=int4", *given]).formats == ("int4",)
    for given in (["--no-export"], ["--compare", "a", "b"], ["--benchmark"], ["--model=a.onnx"]):
        with pytest.raises(UserError, match="--formats is about the files of one run"):
            TestOptions().parse(["--formats=int4", *given])


def test_defaults_break_no_rule() -> None:
    for application in APPLICATIONS.values():
        for part in ("train_options", "test_options"):
            assert application.load(part)().parse([]).explicit == frozenset()


def test_of_options_that_exclude_each_other_the_first_speaks() -> None:
    @dataclass
    class Config:
        a: None = None
        b: bool = True
        c: str = "x"
        explicit: frozenset[str] = frozenset({"b", "c"})

    with pytest.raises(UserError) as refused:
        check(Config(), [*alone(("a", "b", "c")), Rule(("c",), lambda c: c.b, "needs b")])
    assert str(refused.value).splitlines()[0] == "--b excludes --a, --c; give one of them"
    assert len(str(refused.value).splitlines()) == 2


@pytest.mark.parametrize("script", ["train.py", "test.py"])
@pytest.mark.parametrize(
    "arguments", [["--help"], ["--nEpochs=x", "--jobs=x"], ["--strict", "--batch=2"], ["--optform="], ["--run=/"]]
)
def test_help_and_refusals_import_no_torch(tmp_path: Path, script: str, arguments: list[str]) -> None:
    strict = [each for each in arguments if each != ("--batch=2" if script == "train.py" else "--strict")]
    code = (
        f"import atexit, sys, runpy; sys.path.insert(0, {str(ROOT)!r}); sys.argv = [{script!r}, *{strict!r}]\n"
        "atexit.register(lambda: print('heavy:', {'torch', 'numpy', 'pandas'} & set(sys.modules)))\n"
        f"runpy.run_path({str(ROOT / script)!r}, run_name='__main__')"
    )
    line = [sys.executable, "-c", code]
    ended = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == (0 if arguments == ["--help"] else 2), ended.stderr
    assert "heavy: set()" in ended.stdout
    assert "Traceback" not in ended.stderr
