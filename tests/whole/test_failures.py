"""What the system refuses a run: found out before it starts where it can be, one line, exit code 2; ends of runs."""

import logging
import os
from pathlib import Path

import pytest

from apputils.checkpoints.file import load_checkpoint, save_checkpoint
from apputils.runs.console import exit_codes
from compress.errors import UserError
from tests import disks
from tests.engine.conftest import TrainerOf

SMALL = ("--nEpochs=1", "--threads=1")


def in_the_way(kind: str, path: Path) -> None:
    """Puts something else than a file at a path, or a file where a folder is needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        path.write_text("")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(path.name)


@pytest.mark.parametrize(("kind", "name"), [
    ("file", "logs"), ("file", "results"), ("file", "checkpoints"), ("loop", "results"), ("file", "results/a"),
    ("file", "checkpoints/a"), ("folder", "checkpoints/a/last.pt"), ("fifo", "checkpoints/a/best.pt"),
    ("folder", "results/a/summary.json"), ("loop", "checkpoints/a"),
])  # fmt: skip
def test_what_stands_in_the_way_is_found_before_training(trainer_of: TrainerOf, kind: str, name: str) -> None:
    in_the_way(kind, Path(name))
    trainer = trainer_of(*SMALL, "--run=a")
    trainer.compute_loss = lambda batch: pytest.fail("it trains")  # type: ignore[method-assign]
    with pytest.raises(UserError, match=f"nothing was started:\n  {name}.*: ") as e:
        trainer.run()
    assert "Errno" not in str(e.value)
    assert not Path("logs/a").exists()  # the name can be used again


@pytest.mark.parametrize(("kind", "name"), [
    ("folder", "schedule.yaml"), ("fifo", "metrics.csv"), ("fifo", "log.txt"), ("fifo", "options.yaml"),
    ("loop", "running.txt"),
])  # fmt: skip
def test_what_stands_in_the_way_of_a_resumed_run(trainer_of: TrainerOf, kind: str, name: str) -> None:
    trainer_of(*SMALL, "--run=a").run()
    Path("logs/a", name).unlink(missing_ok=True)
    in_the_way(kind, Path("logs/a", name))
    with pytest.raises(UserError, match=f"nothing was started:\n  logs/a/{name}: "):
        trainer_of("--resume=a", "--nEpochs=2").run()


@pytest.mark.parametrize("name", ["a.onnx", "a.pt2", "a.pt"])
def test_a_fifo_is_no_model_and_no_weights(trainer_of: TrainerOf, name: str) -> None:
    os.mkfifo(name)
    from engine.saved.find_checkpoint import load_subject

    with pytest.raises(UserError, match=f"{name}|FIFO"):
        load_subject(Path(name))


def test_every_refusal_of_the_system_is_one_line(
    trainer_of: TrainerOf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that cannot be read, at a place nobody thought of."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "results/a/summary.json")

    monkeypatch.setattr("engine.saved.final_summary.write_json", refuse)
    with pytest.raises(SystemExit) as end:
        exit_codes(lambda: trainer_of(*SMALL, "--run=a").run() and None)()
    assert end.value.code == 2
    line = "error: results/a/summary.json: Permission denied; what was saved in checkpoints/ is left as it was\n"
    assert capsys.readouterr().err.endswith(line)


def fill(path: Path) -> None:
    """Writes until the disk is full."""
    with path.open("wb", buffering=0) as file:
        while file.write(b"x" * 512):
            pass


def test_a_full_disk_below_logs_ends_no_run(trainer_of: TrainerOf, caplog: pytest.LogCaptureFixture) -> None:
    with disks.small_disk("logs", "64k"):
        trainer_of(*SMALL, "--run=a").run()
        for i, more in enumerate((("--resume=a", "--nEpochs=2"), (*SMALL, "--run=b"))):
            with pytest.raises(OSError, match="No space left"):
                fill(Path(f"logs/filler{i}"))
            assert trainer_of(*more).run()["quality"]
    assert "the disk is full" in caplog.text
    assert load_checkpoint(Path("checkpoints/a/last.pt"))["epoch"] == 1


def test_a_finished_run_says_so_and_how_to_train_on(trainer_of: TrainerOf, caplog: pytest.LogCaptureFixture) -> None:
    trainer_of(*SMALL, "--run=a").run()
    with caplog.at_level(logging.INFO):
        trainer_of("--resume=a").run()
    assert (
        "run a is finished: its 1 epochs are trained. To train on: python train.py --resume=a --nEpochs=2"
        in caplog.text
    )
    assert "1..0" not in caplog.text


def test_what_several_processes_had_is_nothing_to_one(trainer_of: TrainerOf) -> None:
    trainer_of(*SMALL, "--run=a").run()
    path = Path("checkpoints/a/last.pt")
    content = load_checkpoint(path)
    save_checkpoint(path, {**content, "options": {**content["options"], "check_ranks": True}})
    trainer_of("--resume=a", "--nEpochs=2").run()
    with pytest.raises(UserError, match="leave it out"):  # where it is given, it is told
        trainer_of("--resume=a", "--nEpochs=3", "--check-ranks").run()
