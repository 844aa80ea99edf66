"""Groups of seeds: trained, interrupted and resumed, evaluated, compared."""

import json
import re
import shutil
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import engine.commands.train
import test as testing
import train as training
from apputils.checkpoints.file import load_checkpoint, save_checkpoint
from apputils.compare.seeds import group_summary
from apputils.runs.console import GoalMissed, Interrupted
from apputils.runs.seed_groups import SeedGroup, group_of, seeds_of
from compress.errors import UserError
from compress.export.timing import Timing
from data.Classify_data.formats.digits import _all
from engine.commands.compare import _further, compare
from engine.commands.evaluate import evaluate
from engine.commands.seeds import test_seeds as run_seeds
from engine.commands.train import act
from engine.goals.verdict import check_goals
from engine.saved.compared_runs import find_subjects
from engine.saved.group_members import check_finished, check_members, check_there
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

    train = engine.commands.train._train

    def failing(application: Any, device: Any, config: Any, *checks: Any) -> Any:
        if config.seed:
            raise UserError("no more")
        return train(application, device, config, *checks)

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


def resumed() -> None:
    act(CLASSIFY, CLASSIFY.load("train_options")().parse(["--optform=Classify", "--resume=g"]))


def evaluated() -> None:
    evaluate(CLASSIFY, CLASSIFY.load("test_options")().parse(["--run=g", *QUICK]))


@pytest.fixture(scope="module")
def trained_group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the group g was trained with the seeds 0 and 1."""
    folder = tmp_path_factory.mktemp("group")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        trained("--seeds=2", "--run=g")
    return folder


@pytest.fixture
def group(here: Path, trained_group: Path) -> SeedGroup:
    """A copy of it in the present folder."""
    shutil.copytree(trained_group, here, dirs_exist_ok=True)
    found = group_of("g")
    assert found is not None
    return found


def changed(run: str, options: dict[str, Any] | None = None, **changes: Any) -> None:
    """Other options or parts in a run's checkpoints."""
    for path in Path(f"checkpoints/{run}").glob("*.pt"):
        content = {name: value for name, value in load_checkpoint(path).items() if name != "format"}
        save_checkpoint(path, {**content, "options": {**content["options"], **(options or {})}, **changes})


def test_a_group_without_all_its_networks_says_what_to_type(group: SeedGroup) -> None:
    for folder in (group.members[1].logs, group.members[1].results, group.members[1].checkpoints):
        shutil.rmtree(folder)
    message = r"no network of g-s1 yet; python train\.py --optform=Classify --resume=g"
    with pytest.raises(UserError, match=message):
        evaluated()
    with pytest.raises(UserError, match=message):
        find_subjects(CLASSIFY.load("test_options")().parse(["--compare", "g", "g-s0"]))


@pytest.mark.parametrize("lost", ["checkpoints/g-s1/best.pt", "checkpoints/g-s1"])
def test_a_network_that_is_gone_is_named_and_what_is_said_to_do_helps(group: SeedGroup, lost: str) -> None:
    shutil.rmtree(lost) if Path(lost).is_dir() else Path(lost).unlink()
    message = rf"runs whose network is gone: {re.escape(lost)}\nto train anew: rm -r (.*), then python train\.py"
    for act_on in (evaluated, resumed):
        with pytest.raises(UserError, match=message) as refused:
            act_on()
    found = re.search(message, str(refused.value))
    assert found is not None
    for folder in found[1].split():
        shutil.rmtree(folder, ignore_errors=True)
    resumed()
    check_there(group)
    check_finished(group)


@pytest.mark.parametrize(("options", "changes", "message"), [
    ({"lr": 1e-4, "traindata": "d2.npz"}, {},
     "g-s1: --traindata='d2.npz', and the group's is none\n  g-s1: --lr=0.0001, and the group's is 0.002"),
    ({"seed": 0}, {}, "g-s1: --seed=0, and the group's is 1"),
    ({}, {"schedule_text": "version: 1"}, "g-s1: the text of its schedule is another one"),
    ({}, {"task": {"data": {"place": "d", "files": 7, "digest": "0"}}}, "g-s1: trained on d (7 files), and g-s0 on "),
])  # fmt: skip
def test_a_run_that_was_trained_otherwise_is_no_seed_of_the_group(
    group: SeedGroup, options: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    if "task" in changes:
        changes = {"task": {**load_checkpoint(group.members[1].best)["task"], **changes["task"]}}
    changed("g-s1", options, **changes)
    comparing = partial(find_subjects, CLASSIFY.load("test_options")().parse(["--compare", "g", "g-s0"]))
    for act_on in (evaluated, resumed, comparing):
        with pytest.raises(UserError, match=re.escape(message)):
            act_on()


def test_a_run_of_other_data_is_refused_before_it_is_trained(group: SeedGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    for top in ("logs", "results", "checkpoints"):
        shutil.rmtree(f"{top}/g-s1")
    monkeypatch.setattr("data.Classify_data.formats.digits._all", lambda: (_all()[0][::-1], _all()[1]))
    message = "g-s0, of the group g: the run was trained on .* which are other images or labels"
    with pytest.raises(UserError, match=message):
        resumed()
    assert not Path("logs/g-s1").exists()


def test_options_of_the_machine_may_differ(group: SeedGroup) -> None:
    changed("g-s1", {"threads": 7, "keep": 9})
    check_members(group)


def test_a_run_that_was_ended_early_is_not_put_together_with_others(group: SeedGroup) -> None:
    changed("g-s1", planned_epochs=5)
    with pytest.raises(UserError, match="g-s1 has trained 1 of its 5 epochs; python train.py --optform=Classify --res"):
        evaluated()


def test_quality_on_different_data_has_no_mean(group: SeedGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    quality = {"top1": {"majority class": 10.0, "model": 90.0}}
    measured = {"data": "a", "part": "whole"}
    summaries = iter([{"quality": quality, "measured_on": {**measured, "images": images}} for images in (5, 6)])
    opt = CLASSIFY.load("test_options")().parse(["--run=g", *QUICK])
    with pytest.raises(UserError, match="has no mean: g-s0 on 5 images: a; g-s1 on 6 images: a; test the runs one"):
        run_seeds(opt, group, lambda _: next(summaries))
    fakes: list[Any] = [SimpleNamespace(measured_on=lambda images=images: {"images": images}) for images in (5, 6)]
    monkeypatch.setattr("engine.commands.compare._tester", lambda *_: fakes[1])
    [subject, _], _ = find_subjects(CLASSIFY.load("test_options")().parse(["--compare", "g", "g-s0"]))
    with pytest.raises(UserError, match="g is measured on images 5; g-s1 on images 6"):
        _further(subject, fakes[0], opt, find_application)


def test_a_group_whose_first_run_did_not_begin_leaves_nothing(here: Path) -> None:
    Path("d.npz").write_bytes(b"none")
    with pytest.raises(UserError) as refused:
        trained("--seeds=2", "--run=g", "--traindata=d.npz")
    assert "--resume" not in str(refused.value)
    assert [path.name for path in here.iterdir()] == ["d.npz"]
    assert group_of("g") is None


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
