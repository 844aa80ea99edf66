"""Options that cannot go together, on the command line of every application; torch is not imported to say so."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from compress.errors import UserError
from options.applications import APPLICATIONS
from options.rules import Rule, alone, check

ROOT = Path(__file__).resolve().parents[2]

SHARED_TRAINING = [
    (["--plan", "--compress=.", "--smoke"], "--plan excludes --smoke, --list-weights, --list-groups, --new-schedule"),
    (["--plan"], "--plan is about a schedule; name one with --compress"),
    (["--smoke"], "--smoke is about a schedule"),
    (["--strict"], "--strict is about a schedule"),
    (["--list-weights", "--run=a"], "--run names what is written, and nothing is with the other option"),
    (["--resume=x", "--plan"], "--plan looks at a new run's schedule, and --resume goes on with a run"),
    (["--resume=x", "--run=y"], "--run names a new run, and --resume goes on with one"),
    (["--resume=x"], "there is no run"),
    (["--run=../x"], "--run='../x': a run's name is one folder name"),
    (["--run=a\nb"], r"--run='a\\nb': a run's name"),
    (["--run=" + "x" * 300], "at most 100 printable characters"),
    (["--run=taken"], "--run=taken: there is a run of that name; --resume=taken goes on with it"),
    (["--new-schedule=agq"], "--new-schedule=agq: no such family; did you mean 'agp'"),
    (["--compress=."], "--compress=.: that is a folder, it holds mine.yaml; name a file"),
    (["--compress=" + "x" * 5000], "no such file here"),
    (["--traindata=nowhere"], "--traindata=nowhere: there is no such (file or )?folder"),
]
SHARED_TESTING = [
    (["--run=a", "--model=mine.yaml"], "--model excludes --run, --compare; give one of them"),
    (["--compare", "a", "--dump-features=x.npz", "--layers=x"], "--compare excludes --dump-features"),
    (["--benchmark", "--quantize=auto"], "--benchmark only measures time"),
    (["--batch=4"], "--batch belongs to --compare and --benchmark"),
    (["--bits=4"], "--bits belongs to --compare and --benchmark"),
    (["--layers=a"], "--layers belongs to --dump-features"),
    (["--num=3"], "--num belongs to --dump-features"),
    (["--dump-features=a.npz"], "--dump-features needs --layers"),
    (["--dump-features=a.txt", "--layers=x"], "--dump-features writes a file of the kind .npz"),
    (["--model=old.onnx", "--quantize=auto"], "--quantize needs a checkpoint, not an exported file"),
    (["--calibration=3"], "--calibration belongs to --quantize and --bits"),
    (["--max-drop=1"], "--max-drop belongs to --quantize=auto"),
    (["--quantize=auto", "--bits-budget=size:0.1"], "--bits-budget belongs to --quantize=mixed"),
    (["--quantize=mixed"], "--quantize mixed needs --bits-budget"),
    (["--sense=none", "--full"], "--full belongs to the sensitivity analysis, which --sense=none leaves out"),
    (["--sense=none", "--write-schedule=0.1"], "--write-schedule belongs to the sensitivity analysis"),
    (["--baseline=a", "--quantize=auto"], "--baseline is beside the evaluation of a checkpoint"),
    (["--model=old.onnx", "--jobs=2"], "--jobs belongs to the sensitivity analysis, which .* an exported file leave"),
    (["--no-export", "--reduce-range"], "--reduce-range is about the integer files of the export, which --no-export"),
    (["--model=old.onnx", "--complete"], "--complete is about the integer files of the export, .* or an exported file"),
    (["--no-export", "--free-axes=1"], "--free-axes is about the exported ONNX file, which --no-export"),
    (["--compare", "a", "--reduce-range"], "--reduce-range is about the integer files of the export"),
    (["--benchmark", "--complete"], "--complete is about the integer files of the export"),
    (["--run=never"], "there is no run"),
    (["--model=nowhere"], "--model=nowhere: there is no such file"),
    (["--testdata=nowhere"], "--testdata=nowhere: there is no such (file or )?folder"),
]
OWN = {
    ("Classify", "train_options"): [
        (["--dataset=digits", "--traindata=."], "--dataset names a data set, and --traindata another"),
        (["--download"], "--download fetches the data set of --dataset=torchvision:NAME"),
        (["--exit-weight=0.5"], "--exit-weight weighs the losses of early exits"),
        (["--match=order"], "--match says how the file of --weights is read"),
        (["--pretrained", "--weights=mine.yaml", "--arch=timm:a"], "--pretrained and --weights are two ways"),
        (["--pretrained"], "--pretrained is for --arch=torchvision:NAME"),
        (["--momentum=0.5"], "--momentum means nothing to the optimizer"),
        (["--decay-all", "--weight-decay=0"], "--decay-all says what decays"),
    ],
    ("Classify", "test_options"): [
        (["--predict=.", "--testdata=."], "--predict takes its pictures from its own folder"),
        (["--predict=.", "--quantize=auto"], "--quantize excludes --compare, --dump-features, --predict"),
        (["--predict=nowhere"], "--predict=nowhere: there is no such folder"),
    ],
    ("Deblur", "train_options"): [
        (["--patch-size=30"], "--patch-size must be a multiple of 4 pixels"),
        (["--patch-size=16"], "--patch-size must be 24 or more for the discriminator to judge a patch; --adv"),
        (["--patch-size=20", "--gan=lsgan"], "--patch-size must be 24 or more"),
        (["--sharp-only"], "--sharp-only says what --traindata holds"),
        (["--traindata=.", "--blur-length=9"], "--blur-length is of blur that is made"),
        (["--vgg-weights=mine.yaml"], "--vgg-weights is for --content=perceptual"),
        (["--vgg-weights=nowhere", "--preset=paper"], "--vgg-weights=nowhere: there is no such file"),
        (["--adversarial=0", "--gan=lsgan"], "--gan is about the discriminator, which --adversarial=0 leaves out"),
    ],
    ("Deblur", "test_options"): [(["--sharp-only"], "--sharp-only says what --testdata holds")],
}
CASES = [
    (name, part, *case)
    for name in APPLICATIONS
    for part, shared in (("train_options", SHARED_TRAINING), ("test_options", SHARED_TESTING))
    for case in (*shared, *OWN.get((name, part), []))
]
BEYOND = [  # application, part, argument, what it must be
    ("SR", "train_options", "--nEpochs=100001", "100000 at most"),
    ("SR", "train_options", "--ema=1", "less than 1.0"),
    ("SR", "train_options", "--seed=" + str(2**70), "at most"),
    ("SR", "train_options", "--workers=100000", "1024 at most"),
    ("SR", "train_options", "--samples=" + str(10**12), "at most"),
    ("SR", "train_options", "--patch-size=1000000", "4096 at most"),
    ("SR", "train_options", "--lr=1e400", "a finite number"),
    ("SR", "train_options", "--optform=", "given nothing"),
    ("SR", "train_options", "--device= ", "given nothing"),
    ("SR", "test_options", "--jobs=1000000", "1024 at most"),
    ("Classify", "train_options", "--width-mult=0", "more than 0.0"),
    ("Classify", "train_options", "--dropout=1", "less than 1.0"),
    ("Classify", "train_options", "--zoom=1", "less than 1.0"),
    ("Classify", "train_options", "--label-smoothing=2", "less than 1.0"),
    ("Deblur", "train_options", "--ngf=100000", "4096 at most"),
]


@pytest.fixture
def place(here: Path) -> Path:
    """A present folder with a run's logs, a schedule and an exported file."""
    (here / "logs" / "taken").mkdir(parents=True)
    (here / "mine.yaml").write_text("version: 1")
    (here / "old.onnx").write_bytes(b"")
    return here


@pytest.mark.parametrize(("name", "part", "arguments", "message"), CASES)
def test_what_cannot_work_is_refused(place: Path, name: str, part: str, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        APPLICATIONS[name].load(part)().parse(arguments)


@pytest.mark.parametrize(("name", "part", "argument", "message"), BEYOND)
def test_values_beyond_what_can_work(
    capsys: pytest.CaptureFixture[str], name: str, part: str, argument: str, message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        APPLICATIONS[name].load(part)().parse([argument])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_every_rule_of_an_application_is_tested() -> None:
    for (name, part), cases in OWN.items():
        module = sys.modules[type(APPLICATIONS[name].load(part)()).__module__]
        tested = " ".join(word for arguments, _ in cases for word in arguments)
        for rule in module.RULES:  # type: ignore[attr-defined]
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
