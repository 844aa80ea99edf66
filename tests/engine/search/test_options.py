"""The command line of search.py, and what stops a search before it begins."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compress.errors import ScheduleError, UserError
from engine.architectures.own import check_typed
from engine.search import agreement
from engine.search.command import act
from engine.search.space import KNOBS, space_of
from options.search_options import SearchConfig, SearchOptions

GOALS = "goals:\n  - {metric: latency, at_most: 0.5}\n  - {metric: psnr, drop_at_most: 0.1}\n"


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "search.py needs --goals=FILE, or --study=NAME --resume"),
    (["--resume"], "--resume resumes a study; name it by --study"),
    (["--resume", "--study=a", "--goals=g.yaml"], "--goals is kept by the study"),
    (["--goals=absent.yaml"], "there is no such file"),
    (["--goals=g.yaml", "--optform=SRR"], "--optform=SRR is unknown; there are SR"),
])  # fmt: skip
def test_options_that_do_not_go_together(arguments: list[str], message: str, here: Path) -> None:
    Path("g.yaml").write_text(GOALS)
    with pytest.raises(UserError, match=message):
        SearchOptions().parse(arguments)


def test_an_unknown_option_has_its_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        SearchOptions().parse(["--goal=x"])
    assert "--goals" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "kind", "message"), [
    (GOALS.replace("psnr", "top1"), ScheduleError, r"g.yaml:3:6: goals\[1\].metric: unknown metric 'top1'"),
    (GOALS + "policies: []\n", UserError, "'policies' has no place here; it holds `goals:` and `search:`"),
    (GOALS + "  - {metric: psnr, at_least: 40}\n  - {metric: psnr, at_most: 30}\n", ScheduleError, "contradicts"),
    ("goals: []\n", ScheduleError, "it holds no list `goals:`"),
])  # fmt: skip
def test_goals_that_cannot_be_searched_for(text: str, kind: type[UserError], message: str, here: Path) -> None:
    Path("g.yaml").write_text(text)
    with pytest.raises(kind, match=message):
        agreement.started(SearchOptions().parse(["--goals=g.yaml"]))
    assert not Path("studies").exists()


def test_all_faults_of_a_file_of_goals_come_in_one_report(here: Path) -> None:
    text = GOALS.replace("psnr", "pnsr") + "search: {precison: int8, lr: 7, four_bits: 0.5}\nserach: {}\n"
    Path("g.yaml").write_text(text)
    with pytest.raises(ScheduleError) as raised:
        agreement.started(SearchOptions().parse(["--goals=g.yaml"]))
    said = [str(each) for each in raised.value.faults]
    wanted = ["did you mean 'psnr'", "did you mean 'precision'", "search.lr: given 7", "no goal is about file_bytes",
              "did you mean 'search'"]  # fmt: skip
    assert len(said) == 5
    assert all(text in each for text, each in zip(wanted, said, strict=True))
    assert not Path("studies").exists()


def test_a_study_in_which_nothing_was_measured_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured is kept, and the command to resume is said."""
    pytest.importorskip("optuna")
    Path("g.yaml").write_text(GOALS)
    config = SearchConfig(study="s", goals="g.yaml", start_from="d")
    with pytest.raises(UserError):
        act(config)  # there is no run d
    assert not Path("studies/s").exists()
    about = agreement.started(config)
    Path("studies/s/latency_model.json").write_text("{}")
    agreement.leave_nothing(about)
    assert Path("studies/s/latency_model.json").exists()


def test_a_study_that_is_not_there(here: Path) -> None:
    with pytest.raises(UserError, match="there is no study a in studies/; there are none"):
        agreement.resumed(SearchOptions().parse(["--study=a", "--resume"]))


@pytest.mark.parametrize(("pinned", "message"), [
    ({"float_layers": 1.0}, "given 1.0; it is one or a list of 0, 1, 2, 4"),
    ({"thin_epoch": True}, "given True; it is one or a list of 0, 1"),
    ({"teacher": [False, 1]}, "it is one or a list of false, true"),
    ({"precison": "int8"}, "unknown knob 'precison'; did you mean 'precision'"),
    ({"precision": "int4"}, 'given \'int4\'; it is one or a list of "float", "int8"'),
    ({"four_bits": 0.5}, "four_bits: given 0.5, and no goal is about file_bytes"),
    ({"lr": []}, "it is one or a list of 1.0, 0.3, 0.1"),
])  # fmt: skip
def test_knobs_that_are_pinned_wrongly(pinned: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        space_of(None, pinned)  # type: ignore[arg-type]
    assert set(KNOBS) == {"criterion", "precision", "teacher", "lr", "thin_epoch", "quantize", "float_layers", "ptq",
                          "four_bits"}  # fmt: skip


def test_a_new_study_does_not_take_the_runs_of_an_earlier_one(here: Path) -> None:
    Path("g.yaml").write_text(GOALS)
    Path("checkpoints/s-0003").mkdir(parents=True)
    with pytest.raises(UserError, match="s-0003 is there already, of an earlier study; name another"):
        agreement.started(SearchConfig(study="s", goals="g.yaml", start_from="d"))
    agreement.started(SearchConfig(study="t", goals="g.yaml", start_from="d"))
    with pytest.raises(UserError, match="there is a study t already; resume it by python search.py --study=t"):
        agreement.started(SearchConfig(study="t", goals="g.yaml", start_from="d"))


def test_a_worker_that_joins_takes_what_the_study_was_begun_with(here: Path) -> None:
    Path("g.yaml").write_text(GOALS)
    agreement.started(SearchConfig(study="s", goals="g.yaml", start_from="d", seed=3))
    assert agreement.resumed(SearchOptions().parse(["--study=s", "--resume", "--seed=3"]))["seed"] == 3
    with pytest.raises(UserError, match="--threads=2: the study s was begun with 1; leave it out"):
        agreement.resumed(SearchOptions().parse(["--study=s", "--resume", "--threads=2"]))


def test_rungs_are_chosen_once(here: Path) -> None:
    Path("g.yaml").write_text(GOALS)
    about = agreement.started(SearchConfig(study="s", goals="g.yaml", start_from="d"))
    subject: Any = SimpleNamespace(checkpoint={"seconds": 100.0, "epoch": 9})
    assert agreement.agreed_rungs(about, 60, subject) == [8, 16, 32]
    assert agreement.agreed_rungs(about, 1, subject) == [8, 16, 32]  # of another worker with less time


def test_the_launcher_of_the_manual_starts_workers(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands are understood, whether submitit is installed or not."""
    page = Path(agreement.__file__).parents[2] / "docs" / "search.md"
    (program,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    given: list[list[str]] = []
    done = SimpleNamespace(done=lambda: True, exception=lambda: None, job_id="1")
    executor = SimpleNamespace(update_parameters=lambda **_: None, submit=lambda words: given.append(words) or done)
    fake = SimpleNamespace(AutoExecutor=lambda folder: executor, helpers=SimpleNamespace(CommandFunction=list))
    monkeypatch.setitem(sys.modules, "submitit", fake)  # type: ignore[arg-type]
    Path("goals.yaml").write_text(GOALS)
    exec(compile(program, str(page), "exec"), {})
    assert len(given) == 8
    configs = [SearchOptions().parse(words[2:]) for words in given]
    assert {words[1] for words in given} == {"search.py"}
    assert [each.resume for each in configs] == [False, *[True] * 7]
    assert len({each.study for each in configs}) == 1


@pytest.mark.parametrize(("name", "value", "said"), [
    ("goals", 5, "goals: "), ("goals", [], "goals: Value error, there is none"),
    ("goals", [{"metric": "latency"}], "the goal has no bound"), ("goals", [{"metrik": "x"}], "metrik"),
    ("rungs", "x", "rungs: "), ("search", 3, "search: "), ("run", 7, "run: "), ("storage", 4, "storage: "),
    ("study", None, "study: "), ("seed", "0", "seed: "),
])  # fmt: skip
def test_a_damaged_study_is_told(here: Path, name: str, value: object, said: str) -> None:
    Path("g.yaml").write_text(GOALS)
    agreement.started(SearchConfig(study="s", goals="g.yaml", start_from="d"))
    file = Path("studies/s/study.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    with pytest.raises(UserError, match=f"study.json cannot be read: .*{said}"):
        agreement.resumed(SearchOptions().parse(["--study=s", "--resume"]))


def test_code_of_ones_own_is_named_on_the_command_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("options.own_network.named", set())
    options = {"arch": "net.py:Tiny", "degradation": "noise:5+mine.py:dark"}
    with pytest.raises(UserError, match=r"the run needs net.py:Tiny.*a checkpoint never imports code by itself"):
        check_typed(options)
    Path("g.yaml").write_text(GOALS)
    SearchOptions().parse(["--goals=g.yaml", "--arch=net.py:Tiny"])
    with pytest.raises(UserError, match="the run needs mine.py:dark"):
        check_typed(options)
    SearchOptions().parse(["--goals=g.yaml", "--degradation=noise:5+mine.py:dark"])
    check_typed(options)
