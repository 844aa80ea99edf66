"""The command line of search.py, and what stops a search before it begins."""

from pathlib import Path

import pytest

from compress.errors import ScheduleError, UserError
from engine.search import command
from engine.search.space import KNOBS, space_of
from options.search_options import SearchOptions

GOALS = "goals:\n  - {metric: latency, at_most: 0.5}\n  - {metric: psnr, drop_at_most: 0.1}\n"


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "search.py needs --goals=FILE, or --study=NAME --resume"),
    (["--resume"], "--resume goes on with a study; name it by --study"),
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
    (GOALS + "policies: []\n", UserError, "policies has no place here; it holds `goals:` and `search:`"),
    (GOALS + "  - {metric: psnr, at_least: 40}\n  - {metric: psnr, at_most: 30}\n", ScheduleError, "contradicts"),
    ("goals: []\n", ScheduleError, "it holds no list `goals:`"),
])  # fmt: skip
def test_goals_that_cannot_be_searched_for(text: str, kind: type[UserError], message: str, here: Path) -> None:
    Path("g.yaml").write_text(text)
    with pytest.raises(kind, match=message):
        command._started(SearchOptions().parse(["--goals=g.yaml"]))
    assert not Path("studies").exists()


def test_a_study_that_is_not_there(here: Path) -> None:
    with pytest.raises(UserError, match="there is no study a in studies/; there are: none"):
        command._resumed(SearchOptions().parse(["--study=a", "--resume"]))


@pytest.mark.parametrize(("pinned", "message"), [
    ({"precison": "int8"}, "unknown knob; did you mean 'precision'"),
    ({"precision": "int4"}, 'given \'int4\'; it is one or a list of "float", "int8"'),
    ({"lr": []}, "it is one or a list of 1.0, 0.3, 0.1"),
])  # fmt: skip
def test_knobs_that_are_pinned_wrongly(pinned: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        space_of(None, pinned)  # type: ignore[arg-type]
    assert set(KNOBS) == {"criterion", "precision", "teacher", "lr", "thin_epoch"}
