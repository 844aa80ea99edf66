"""The study of a search: Optuna's, in one journal file or a database, which any number of workers share.

`open_study`, `next_trial`. Samplers, pruners, constraints and storage are Optuna's own; what is ours is that a trial is
held by a lock on a file, so that the trial of a dead worker is seen and taken over under its own number.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from apputils.runs.console import Interrupted
from compress.errors import UserError
from compress.io.files import read_bytes
from compress.io.optional import needed

logger = logging.getLogger("search")
PURPOSE = "the search"
RUNG = 2  # successive halving keeps a half
FACTS = "subject"
RANDOM = "random"  # the sampler
LARGEST = 1 << 32  # bytes of a journal


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """What the storage raises inside, in one sentence."""
    storages = needed("optuna", PURPOSE).exceptions
    try:
        yield
    except (OSError, JSONDecodeError, storages.StorageInternalError) as e:
        raise UserError(
            f"the study's storage {where} cannot be used any more: {(str(e).splitlines() or ['?'])[0][:200]}; trials "
            "are saved as runs. When it is back, --study=NAME --resume continues; nothing was lost"
        ) from e


def check_storage(folder: Path, storage: str | None) -> None:
    """Whether the storage can be used, before anything is measured; arguments as `open_study`'s.

    Raises:
        UserError: it cannot be reached, is none, or is damaged.
    """
    optuna = needed("optuna", PURPOSE)
    with _refusals(storage or str(folder / "journal.log"), storage):
        optuna.storages.get_storage(_storage(optuna, folder, storage))


@contextmanager
def _refusals(where: str, storage: str | None) -> Iterator[None]:
    """Whatever a driver or a damaged journal raises, in one sentence: nothing else is done inside."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as e:
        said = f"{type(e).__name__}: {(str(e).splitlines() or ['?'])[0][:200]}"
        what = "the study's journal " if storage is None else "--storage="
        raise UserError(f"{what}{where} cannot be used: {said}. Nothing was started") from e


def open_study(
    folder: Path, storage: str | None, facts: Mapping[str, Any], higher_is_better: bool, first_rung: int
) -> Any:
    """The Optuna study of a folder, made if it is not there.

    Args:
        folder: studies/NAME.
        storage: URL of a database; None is the folder's journal file.
        facts: of the network, data and goals, which every worker must share.
        higher_is_better: of the metric.
        first_rung: epochs after which a trial is compared first; the next rungs are twice as long each.

    Raises:
        UserError: it is of another network, data or goals, or the storage cannot be reached.
    """
    optuna = needed("optuna", PURPOSE)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    where = storage or str(folder / "journal.log")
    with storage_errors(where):
        with _refusals(where, storage):
            study = optuna.create_study(
                study_name=folder.name,
                storage=_storage(optuna, folder, storage),
                direction="maximize" if higher_is_better else "minimize",
                pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=first_rung, reduction_factor=RUNG),
                load_if_exists=True,
            )
        kept = study.user_attrs.get(FACTS)
        if kept is None:
            study.set_user_attr(FACTS, dict(facts))
        elif kept != dict(facts):
            differ = ", ".join(name for name, value in facts.items() if kept.get(name) != value)
            raise UserError(f"the study {folder.name} is of another {differ}; name another study. Nothing was started")
    return study


def check_has_its_trials(study: Any, folder: Path, where: str) -> None:
    """Whether a study that has begun is the one in the storage: an emptied storage would count from 0 again.

    Raises:
        UserError: there are schedules of trials in the folder, and no trial in the storage.
    """
    written = sorted(each.name for each in folder.glob("trial*.yaml"))
    if written and not study.get_trials(deepcopy=False):
        raise UserError(
            f"the study {folder.name} has begun ({written[-1]} is there), and its storage {where} holds no trial: it "
            "was emptied, or is another one than the study's. Put it back, or start another study. Nothing was "
            "started"
        )


def next_trial(study: Any, folder: Path, sampler: Any) -> tuple[Any, FileLock]:
    """A trial that no living worker has, and the lock that holds it: a dead worker's first, else a new one."""
    found = _next(study, folder, sampler, new=True)
    assert found is not None
    return found


def next_queued(study: Any, folder: Path, sampler: Any) -> tuple[Any, FileLock] | None:
    """The same of trials that were enqueued; None where each one is done or has a living worker."""
    return _next(study, folder, sampler, new=False)


def _next(study: Any, folder: Path, sampler: Any, new: bool) -> tuple[Any, FileLock] | None:
    optuna = needed("optuna", PURPOSE)
    states, locks = optuna.trial.TrialState, folder / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / "study"):  # so that nobody takes a trial between its birth and its lock
        for frozen in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            lock = FileLock(locks / f"{frozen.number:04d}")
            with suppress(Timeout):
                lock.acquire(timeout=0)
                logger.info("trial %d was left unfinished and is resumed", frozen.number)
                study.sampler = sampler(frozen.number)
                return optuna.trial.Trial(study, frozen._trial_id), lock
        if not new and not study.get_trials(deepcopy=False, states=(states.WAITING,)):
            return None
        study.sampler = sampler(len(study.get_trials(deepcopy=False)))
        trial = study.ask()
        lock = FileLock(locks / f"{trial.number:04d}")
        lock.acquire(timeout=0)
        return trial, lock


def sampler_of(kind: str, seed: int) -> Any:
    """Trial's number -> its sampler, so that a trial depends on the study's history and the seed alone."""
    samplers = needed("optuna", PURPOSE).samplers
    make = samplers.RandomSampler if kind == RANDOM else samplers.TPESampler
    # A seed of its own for each trial: two workers that ask at the same time do not draw the same candidate.
    return lambda number: make(seed=(seed * 1_000_003 + number) % 2**31)


def _storage(optuna: Any, folder: Path, url: str | None) -> Any:
    if url is not None:
        return url
    journal = optuna.storages.journal
    folder.mkdir(parents=True, exist_ok=True)
    file = str(folder / "journal.log")
    _without_torn_line(Path(file), journal.JournalFileOpenLock(file))
    return optuna.storages.JournalStorage(journal.JournalFileBackend(file, journal.JournalFileOpenLock(file)))


def _without_torn_line(file: Path, lock: Any) -> None:
    """Cuts a last line that was not written to its end, as when the disk is full: Optuna would write behind it."""
    if not os.path.lexists(file):
        return
    lock.acquire()
    try:
        content = read_bytes(file, LARGEST)
        if content and not content.endswith(b"\n"):
            logger.warning("%s ends in the middle of a line, which is removed: what it said is done again", file)
            os.truncate(file, content.rfind(b"\n") + 1)
    finally:
        lock.release()
