"""A file of another run in a run's folder is refused wherever it would be read; a renamed run takes its files over."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from apputils.checkpoints.file import load_checkpoint
from apputils.runs.adopt import main as adopt
from apputils.runs.folders import check_owner
from compress.errors import UserError
from engine.saved.compared_runs import find_subjects
from engine.saved.find_checkpoint import find_subject, load_subject
from engine.saved.run_teachers import RunTeachers
from options.Normal_options.test_options import TestOptions
from tests.engine.conftest import TrainerOf

WORDS = "is of the run 'b', and stands in the folder of 'a'"


@pytest.fixture
def runs(trainer_of: TrainerOf) -> TrainerOf:
    """Two runs of one network under other seeds; a's file is replaced by the test."""
    for name, seed in (("a", 0), ("b", 1)):
        trainer_of("--nEpochs=1", f"--run={name}", f"--seed={seed}", "--threads=1").run()
    return trainer_of


def test_another_runs_last_or_best_is_not_resumed(runs: TrainerOf) -> None:
    kept = Path("checkpoints/a/last.pt").read_bytes()
    shutil.copy("checkpoints/b/last.pt", "checkpoints/a/last.pt")
    with pytest.raises(UserError, match=f"checkpoints/a/last.pt {WORDS}.*python -m apputils.runs.adopt a"):
        runs("--resume=a", "--nEpochs=2")
    Path("checkpoints/a/last.pt").write_bytes(kept)
    for name in ("best.pt", "best_thinned0.pt"):
        own = Path(f"checkpoints/a/{name}").read_bytes() if name == "best.pt" else None
        shutil.copy("checkpoints/b/best.pt", f"checkpoints/a/{name}")
        with pytest.raises(UserError, match=f"checkpoints/a/{name} {WORDS}"):
            runs("--resume=a", "--nEpochs=2").run()
        Path(f"checkpoints/a/{name}").write_bytes(own) if own else Path(f"checkpoints/a/{name}").unlink()
    shutil.copy("checkpoints/b/last.pt", "checkpoints/a/last.1.pt")
    Path("checkpoints/a/last.pt").write_bytes(kept[:-500])  # damaged: the one before it counts, which is b's
    with pytest.raises(UserError, match=WORDS):
        runs("--resume=a", "--nEpochs=2")


def test_nothing_is_evaluated_as_another_run(runs: TrainerOf) -> None:
    shutil.copy("checkpoints/b/best.pt", "checkpoints/a/best.pt")
    for words in (
        ["--run=a"],
        ["--model=checkpoints/a/best.pt"],
        [f"--model={Path('checkpoints/a/best.pt').resolve()}"],
    ):
        with pytest.raises(UserError, match=WORDS):
            find_subject(TestOptions().parse(words))
    for compare in (("a", "b"), ("checkpoints/a/best.pt",)):
        with pytest.raises(UserError, match=WORDS):
            find_subjects(SimpleNamespace(compare=compare, optform=None, model=None, run=None))
    found, notes = find_subjects(SimpleNamespace(compare=("all",), optform=None, model=None, run=None))
    assert [each.name for each in found] == ["b"]
    assert len(notes) == 1
    assert "a is left out" in notes[0]
    for teacher in ("a", "checkpoints/a/best.pt"):
        with pytest.raises(UserError, match=WORDS):
            RunTeachers("SR", lambda name, pretrained: pytest.fail("built"))(teacher)
    shutil.copy("checkpoints/a/best.pt", "elsewhere.pt")
    assert load_subject(Path("elsewhere.pt"))["run"] == "b"  # outside of the folders a file may be of any run


def test_a_renamed_run_takes_its_checkpoints_over(runs: TrainerOf, capsys: pytest.CaptureFixture[str]) -> None:
    for top in ("logs", "results", "checkpoints"):
        Path(top, "b").rename(Path(top, "c"))
    with pytest.raises(UserError, match="is of the run 'b', and stands in the folder of 'c'"):
        runs("--resume=c", "--nEpochs=2")
    assert adopt(["c"]) == 0
    assert "are of the run c now" in capsys.readouterr().out
    assert {load_checkpoint(path)["run"] for path in Path("checkpoints/c").glob("*.pt")} == {"c"}
    runs("--resume=c", "--nEpochs=2").run()
    assert load_checkpoint(Path("checkpoints/c/last.pt"))["epoch"] == 1
    assert adopt(["c"]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    shutil.copy("checkpoints/c/best.pt", "checkpoints/a/best.pt")
    assert adopt(["a"]) == 2
    assert "of several runs: best.pt of 'c'" in capsys.readouterr().err
    assert adopt(["never"]) == adopt(["../a"]) == 2


def test_what_stands_in_a_runs_folder_is_its_own(here: Path) -> None:
    (here / "disk").mkdir()
    (here / "checkpoints").symlink_to("disk")
    (here / "disk" / "a").mkdir()
    (here / "results").mkdir()
    for path in ("checkpoints/a/x.pt", "./checkpoints/../checkpoints/a/x.pt", "disk/a/x.pt", "results/a/deep/n.onnx"):
        check_owner("a", Path(path))
        with pytest.raises(UserError, match="stands in the folder of 'a'"):
            check_owner("b", Path(path))
    for path in ("x.pt", "checkpoints/x.pt", "elsewhere/checkpoints/a/x.pt", "/tmp/checkpoints/a/x.pt"):
        check_owner("b", Path(path))
