"""Groups of seeds: trained, interrupted and resumed, tested, compared."""

import json
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import test as testing
import train as training
from apputils.checkpoints.file import load_checkpoint
from apputils.compare.seeds import group_summary
from apputils.runs.console import GoalMissed, Interrupted
from apputils.runs.seed_groups import SeedGroup, group_of, seeds_of
from compress.errors import UserError
from compress.export.timing import Timing
from engine.commands.compare import compare
from engine.commands.evaluate import evaluate
from engine.commands.train import act
from engine.goals.verdict import check_goals
from engine.trainer import BaseTrainer
from options.applications import find_application

CLASSIFY = find_application("Classify")
TINY = ["--optform=Classify", "--arch=simplenet_mnist", "--size=16", "--nEpochs=1", "--batchSize=256", "--threads=1"]
QUICK = ["--no-export", "--no-report", "--sense=none"]


def trained(*arguments: str) -> None:
    act(CLASSIFY, CLASSIFY.load("train_options")().parse([*TINY, *arguments]))


def weights(run: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_checkpoint(Path("checkpoints") / run / "last.pt")["model"]
    return found


def told(path: str) -> Any:
    return json.loads(Path(path).read_text())


def _no_export(*given: Any) -> None:
    raise UserError("not here")


@pytest.mark.parametrize(("text", "seeds"), [("3", (0, 1, 2)), ("7,", (7,)), ("0,12,5", (0, 12, 5))])
def test_what_seeds_means(text: str, seeds: tuple[int, ...]) -> None:
    assert seeds_of(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "1", "-3", "1.5", "1,1", "a", "2000", "9" * 30, "1,,2", f"{2**63},"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected a number of seeds from 2 to 1000, such as 5"):
        seeds_of(text)


def test_each_seed_gives_what_it_gives_alone_and_the_summary_is_numpys(here: Path) -> None:
    trained("--seeds=0,4", "--run=g")
    trained("--seed=4", "--run=alone")
    assert all(torch.equal(weights("g-s4")[name], value) for name, value in weights("alone").items())
    values = [told(f"results/g-s{seed}/summary.json")["quality"]["top1"]["model"] for seed in (0, 4)]
    own = told("results/g/summary.json")["quality"]["top1"]["model"]
    assert own["seeds"] == {"0": values[0], "4": values[1]}
    assert (own["mean"], own["deviation"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))


def test_an_interrupted_group_resumes_to_the_same_bits_and_does_nothing_twice(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained("--seeds=3", "--run=whole", "--nEpochs=2")
    save, saves = BaseTrainer.save, 0

    def interrupting(self: BaseTrainer) -> None:
        nonlocal saves
        save(self)
        saves += 1
        if saves == 3:  # the first epoch of the second seed
            self.session.interrupts.asked = signal.SIGINT
            self.session.end_if_asked()

    monkeypatch.setattr(BaseTrainer, "save", interrupting)
    with pytest.raises(Interrupted, match="--resume=g continues with the whole group"):
        trained("--seeds=3", "--run=g", "--nEpochs=2")
    assert not Path("checkpoints/g-s2").exists()
    before = Path("checkpoints/g-s0/last.pt").stat().st_mtime_ns
    act(CLASSIFY, CLASSIFY.load("train_options")().parse(["--optform=Classify", "--resume=g"]))
    assert Path("checkpoints/g-s0/last.pt").stat().st_mtime_ns == before
    for seed in range(3):
        first, second = weights(f"whole-s{seed}"), weights(f"g-s{seed}")
        assert all(torch.equal(second[name], value) for name, value in first.items())
    assert told("results/g/summary.json")["quality"] == told("results/whole/summary.json")["quality"]


def test_a_schedule_that_was_changed_meanwhile_is_not_given_to_other_seeds(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = {
        "version": 1,
        "lr_schedulers": {"a": {"class": "StepLR", "step_size": 1}},
        "policies": [{"lr_scheduler": {"instance_name": "a"}, "epochs": [0]}],
    }
    Path("a.yaml").write_text(yaml.safe_dump(schedule))

    def failing(config: Any, *rest: Any) -> Any:
        raise UserError("no more")

    with monkeypatch.context() as patch:
        patch.setattr("engine.commands.train._train", failing)
        with pytest.raises(UserError, match="no more\n--resume=g continues with the group's other seeds"):
            trained("--seeds=2", "--run=g", "--compress=a.yaml")
    Path("a.yaml").write_text(Path("a.yaml").read_text() + "# other\n")
    with pytest.raises(UserError, match=r"a\.yaml is not what it was when the group g was started"):
        act(CLASSIFY, CLASSIFY.load("train_options")().parse(["--optform=Classify", "--resume=g"]))


def test_a_group_is_tested_and_compared_like_a_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.commands.compare.Timing", lambda: Timing(rounds=2, seconds=0.0, spread=99.0))
    monkeypatch.setattr("engine.commands.compare.export_checkpoint", _no_export)
    for name in ("g", "h"):
        trained("--seeds=2", f"--run={name}")
    opt = CLASSIFY.load("test_options")().parse(["--run=g", *QUICK])
    summary = evaluate(CLASSIFY, opt)
    values = [told(f"results/g-s{seed}/test_summary.json")["quality"]["top1"]["model"] for seed in (0, 1)]
    assert summary["quality"]["top1"]["model"]["mean"] == pytest.approx(np.mean(values))
    assert "results/g-s1/report.html" in Path("results/g/report.html").read_text()
    content = compare(CLASSIFY.load("test_options")().parse(["--compare", "g", "h", "g-s0"]), find_application)
    row = content["rows"][0]
    assert (row["name"], row["seeds"]) == ("g", 2)
    assert row["top1"] == pytest.approx(np.mean(values))
    assert row["top1_deviation"] == pytest.approx(np.std(values, ddof=1))
    same = [each for each in content["differences"] if each["name"] == "h"]
    assert {each["finding"] for each in same} == {"no difference shown"}  # the same seeds twice: the same networks
    assert {(each["mean"], each["seeds"], each["images"], each["paired"]) for each in same} == {(0.0, 2, 357, True)}
    alone = next(each for each in content["differences"] if each["name"] == "g-s0")
    assert (alone["seeds"], alone["paired"]) == (1, False)


def test_a_group_without_all_its_networks_says_what_to_type(here: Path) -> None:
    trained("--seeds=2", "--run=g")
    Path("checkpoints/g-s1/best.pt").unlink()
    with pytest.raises(UserError, match=r"no network of g-s1 yet; python train\.py --optform=Classify --resume=g"):
        evaluate(CLASSIFY, CLASSIFY.load("test_options")().parse(["--run=g", *QUICK]))


@pytest.mark.parametrize(("arguments", "message"), [
    (["--seeds=2", "--seed=1"], "--seed is one seed, and --seeds names several"),
    (["--seeds=2", "--list-weights"], "--seeds trains several runs, and the other option trains none"),
    (["--seeds=x"], "--seeds='x': expected a number of seeds"),
    (["--resume=g", "--seeds=2"], "--seeds starts a new group; --resume=GROUP continues"),
])  # fmt: skip
def test_options_that_do_not_go_together(here: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CLASSIFY.load("train_options")().parse(["--optform=Classify", *arguments])


def test_a_group_where_one_run_is_meant(here: Path) -> None:
    trained("--seeds=2", "--run=g")
    train, test = (partial(CLASSIFY.load(part)().parse) for part in ("train_options", "test_options"))
    with pytest.raises(UserError, match="'g' is a group of seeds; name one of its runs here: g-s0, g-s1"):
        test(["--run=g-s0", "--baseline=g"])
    with pytest.raises(UserError, match="--quantize is about one run, and --run names a group of seeds"):
        test(["--run=g", "--quantize=auto"])
    with pytest.raises(UserError, match="--nEpochs is about one run, and g is a group of seeds"):
        act(CLASSIFY, train(["--optform=Classify", "--resume=g", "--nEpochs=9"]))
    with pytest.raises(UserError, match="there is a run of that name"):
        train(["--optform=Classify", "--run=g-s0"])
    with pytest.raises(UserError, match="there is a run of that name"):
        train(["--optform=Classify", "--run=g"])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": "g", "seeds": ["a"]}', "[" * 100_000, '{"name": "x"}'])
def test_a_damaged_group_is_named(here: Path, content: str) -> None:
    Path("logs/g").mkdir(parents=True)
    Path("logs/g/group.json").write_text(content)
    with pytest.raises(UserError, match=r"logs/g/group\.json does not describe a group of seeds"):
        group_of("g")


def test_the_commands_take_a_group(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the entry points, where the application is found before torch is imported."""
    monkeypatch.setattr("sys.argv", ["train.py", *TINY, "--seeds=2", "--run=g"])
    training.main()
    monkeypatch.setattr("sys.argv", ["test.py", "--run=g", *QUICK])
    testing.main()
    assert told("results/g/test_summary.json")["optform"] == "Classify"


def test_the_goals_of_a_group_are_those_of_its_runs_and_the_worst_verdict_counts() -> None:
    group = SeedGroup("g", "Classify", (0, 1))
    quality = {"top1": {"majority class": 10.0, "model": 90.0}}
    rows = [{"goal": "top1 at least 80", "verdict": "met"}]
    missed = {"verdict": "missed", "rows": [{"goal": "top1 at least 80", "verdict": "missed"}]}
    summaries = {
        0: {"quality": quality, "measured_on": {}, "goals": {"verdict": "met", "rows": rows}},
        1: {"quality": quality, "measured_on": {}, "goals": missed},
    }
    summary = group_summary(group, summaries)
    with pytest.raises(GoalMissed, match=r"top1 at least 80 \(g-s1\)"):
        check_goals(summary)
