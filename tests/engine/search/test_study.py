"""Workers that share a study: a dead one's trial goes on under its own number, a living one's is left alone."""

import glob
import json
import multiprocessing
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from compress.errors import UserError
from engine.search.study import check_has_its_trials, check_storage, next_trial, open_study, sampler_of, storage_errors

optuna = pytest.importorskip("optuna")
FACTS = {"network": "a", "data": "b", "goals": []}


def study_in(folder: Path, **changed: Any) -> Any:
    return open_study(folder, None, {**FACTS, **changed}, True, 2)


def suggest(trial: Any) -> list[Any]:
    return [trial.suggest_int("x", 0, 100), trial.suggest_categorical("y", ["a", "b", "c"])]


def test_a_dead_workers_trial_is_taken_over_once(tmp_path: Path) -> None:
    first, second = study_in(tmp_path / "s"), study_in(tmp_path / "s")
    sampler = sampler_of("tpe", 0)
    trial, lock = next_trial(first, tmp_path / "s", sampler)
    values = suggest(trial)
    trial.report(0.5, 1)
    other, other_lock = next_trial(second, tmp_path / "s", sampler)
    assert (trial.number, other.number) == (0, 1)
    lock.release()  # as the system does when a process ends, however it ends
    again, held = next_trial(second, tmp_path / "s", sampler)
    assert again.number == 0
    assert suggest(again) == values
    again.report(0.75, 2)
    second.tell(again, 0.75)
    held.release()
    other_lock.release()
    study = study_in(tmp_path / "s")
    assert [each.state.name for each in study.trials] == ["COMPLETE", "RUNNING"]
    assert study.trials[0].intermediate_values == {1: 0.5, 2: 0.75}


def _work(folder: Path, trials: int) -> None:
    """A worker that notes each step of each trial, until so many are finished."""
    study, sampler = study_in(folder), sampler_of("random", 0)
    while sum(each.state.is_finished() for each in study.get_trials(deepcopy=False)) < trials:
        trial, lock = next_trial(study, folder, sampler)
        value = suggest(trial)[0]
        for rung in range(1, 4):
            time.sleep(0.01)
            trial.report(value, rung)
        study.tell(trial, float(value))
        lock.release()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # of the short period; a rung is reported again
def test_twenty_workers_are_killed_and_no_trial_is_lost_or_counted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = optuna.storages.journal  # the lock of one that died while it wrote is broken after 30 seconds, here one
    monkeypatch.setattr(journal, "JournalFileOpenLock", partial(journal.JournalFileOpenLock, grace_period=1))
    draw, fork, folder = random.Random(0), multiprocessing.get_context("fork"), tmp_path / "s"
    study_in(folder)
    for _ in range(20):
        workers = [fork.Process(target=_work, args=(folder, 10_000)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:  # one dies while the other works, then that one
            time.sleep(draw.uniform(0.02, 0.3))
            worker.kill()
            worker.join()
    trials = study_in(folder).trials
    _work(folder, sum(each.state.is_finished() for each in trials) + 3)
    trials = study_in(folder).trials
    assert [each.number for each in trials] == [*range(len(trials))]
    assert {each.state.name for each in trials} == {"COMPLETE"}
    for each in trials:
        assert each.intermediate_values == dict.fromkeys(range(1, 4), float(each.params["x"]))
        assert each.value == each.params["x"]
    told = [json.loads(line) for line in (folder / "journal.log").read_text().splitlines()]
    ended = Counter(each["trial_id"] for each in told if each.get("state") == optuna.trial.TrialState.COMPLETE.value)
    assert ended == dict.fromkeys(range(len(trials)), 1)


def test_what_is_suggested_follows_from_the_seed_and_the_history(tmp_path: Path) -> None:
    """Also where the process ends after each trial."""

    def run(name: str, processes: int) -> list[Any]:
        found = []
        study = study_in(tmp_path / name)
        for number in range(14):
            if number % (14 // processes) == 0:
                study = study_in(tmp_path / name)
            trial, lock = next_trial(study, tmp_path / name, sampler_of("tpe", 3))
            found.append(suggest(trial))
            study.tell(trial, float(found[-1][0]))
            lock.release()
        return found

    assert run("one", 1) == run("two", 7)


def test_a_half_goes_on_to_the_next_rung(tmp_path: Path) -> None:
    """Each rung halves once, whatever its number of epochs: of 32 trials 16 reach the second, about 8 the third."""
    study = open_study(tmp_path / "s", None, FACTS, True, 8)
    reached = {8: 0, 16: 0, 32: 0}
    values = random.Random(0).sample(range(32), 32)
    for value in values:
        trial = study.ask()
        for rung in reached:
            reached[rung] += 1
            trial.report(value, rung)
            if trial.should_prune():
                break
        study.tell(trial, value)
    assert reached[8] == 32
    assert 14 <= reached[16] <= 20  # those before the first half is known are let pass
    assert 4 <= reached[32] <= 12


def test_a_study_is_of_one_network_and_data(tmp_path: Path) -> None:
    study_in(tmp_path / "s")
    with pytest.raises(UserError, match="the study s is of another data, goals; name another study"):
        study_in(tmp_path / "s", data="c", goals=[1])
    study_in(tmp_path / "s")


def test_a_database_is_a_storage_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study = open_study(tmp_path / "s", url, FACTS, True, 2)
    trial, lock = next_trial(study, tmp_path / "s", sampler_of("random", 0))
    suggest(trial)
    study.tell(trial, 1.0)
    lock.release()
    assert open_study(tmp_path / "s", url, FACTS, True, 2).trials[0].value == 1.0
    with pytest.raises(UserError, match="--storage=nonsense://x cannot be used"):
        open_study(tmp_path / "s", "nonsense://x", FACTS, True, 2)


def test_a_storage_that_disappears_is_told_in_one_sentence() -> None:
    message = "storage f cannot be used any more: gone; trials are saved as runs"
    with pytest.raises(UserError, match=message), storage_errors("f"):
        raise OSError("gone")


def test_a_storage_that_was_emptied_does_not_begin_anew(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    study = study_in(folder)
    check_has_its_trials(study, folder, "f")
    (folder / "trial0002.yaml").write_text("version: 1\n")
    with pytest.raises(UserError, match=r"the study s has begun \(trial0002.yaml is there\), and its storage f"):
        check_has_its_trials(study, folder, "f")
    next_trial(study, folder, sampler_of("random", 0))
    check_has_its_trials(study, folder, "f")


def test_a_damaged_journal_is_told_in_one_sentence(tmp_path: Path) -> None:
    study_in(tmp_path / "s")
    with (tmp_path / "s" / "journal.log").open("a") as journal:
        journal.write('{"torn\n{"op_code": 1}\n')
    with pytest.raises(UserError, match="cannot be used: .* Nothing was started"):
        study_in(tmp_path / "s")


@pytest.mark.parametrize("content", [b"{}\n", b"[]\n", b"null\n", b'{"op_code": 99}\n', b"\xff\xfe\x00\n"])
def test_a_file_that_is_no_journal_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "journal.log").write_bytes(content)
    for used in (study_in, partial(check_storage, storage=None)):
        with pytest.raises(UserError, match="the study's journal .*journal.log cannot be used: "):
            used(tmp_path / "s")


def test_a_line_that_was_not_written_to_its_end_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = study_in(tmp_path / "s")
    study.tell(study.ask(), 0.5)
    journal = tmp_path / "s" / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[-1][:-7])
    again = study_in(tmp_path / "s")
    assert [each.value for each in again.trials] == [0.5]
    assert journal.read_bytes().startswith(whole + b"{")
    assert "ends in the middle of a line" in caplog.text
    again.tell(again.ask(), 0.75)
    assert [each.value for each in study_in(tmp_path / "s").trials] == [0.5, 0.75]


@pytest.mark.parametrize("url", ["garbage", "redis://localhost:1", "nosuchdb://here/x"])
def test_a_storage_that_is_none_is_told_before_anything_is_measured(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match=f"--storage={url} cannot be used: "):
        check_storage(tmp_path / "s", url)


def _run(owner: list[str], *words: str) -> None:
    subprocess.run([*owner, *words], check=True, cwd="/", stdout=subprocess.DEVNULL)


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server of its own, in a temporary folder; as another user where this one is root."""
    pytest.importorskip("psycopg")
    places = os.pathsep.join([os.environ["PATH"], *glob.glob("/usr/lib/postgresql/*/bin")])  # Debian's, not on the path
    tools = [shutil.which(name, path=places) for name in ("initdb", "pg_ctl")]
    if not all(tools):
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    owner = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(dir="/tmp") as place, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        data = f"{place}/data"
        if owner:
            shutil.chown(place, "postgres")
        run = partial(_run, owner)
        run(str(tools[0]), "-D", data, "-U", "bench", "-A", "trust")
        settings = f"-p {port} -k {place} -c fsync=off"
        run(str(tools[1]), "-D", data, "-o", settings, "-l", f"{place}/log", "-w", "start")
        try:
            yield f"postgresql+psycopg://bench@127.0.0.1:{port}/postgres"
        finally:
            run(str(tools[1]), "-D", data, "-m", "immediate", "stop")


def test_workers_share_a_real_postgresql(postgres: str, tmp_path: Path) -> None:
    sampler, folder = sampler_of("tpe", 0), tmp_path / "s"
    workers = [open_study(folder, postgres, FACTS, True, 2) for _ in range(2)]
    held = [next_trial(worker, folder, sampler) for worker in workers]
    assert [trial.number for trial, _ in held] == [0, 1]
    for (trial, lock), worker in zip(held, workers, strict=True):
        suggest(trial)
        trial.set_constraint("latency", -0.1)
        worker.tell(trial, float(trial.number))
        lock.release()
    again = open_study(folder, postgres, FACTS, True, 2)
    assert [each.value for each in again.trials] == [0.0, 1.0]
    assert [each.constraints for each in again.trials] == [{"latency": -0.1}] * 2
    with pytest.raises(UserError, match="is of another data"):
        open_study(folder, postgres, {**FACTS, "data": "c"}, True, 2)
