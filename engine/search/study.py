"""The study of a search: Optuna's, in one journal file or a database, which any number of workers share.

`open_study`, `next_trial`. Samplers, pruners, constraints and storage are Optuna's own; what is ours is that a trial is
held by a lock on a file, so that the trial of a dead worker is seen and taken over under its own number.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from compress.errors import UserError
from compress.io.optional import needed

logger = logging.getLogger("search")
PURPOSE = "the search"
RUNG = 2  # successive halving keeps a half
FACTS = "subject"
RANDOM = "random"  # the sampler


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
        try:
            study = optuna.create_study(
                study_name=folder.name,
                storage=_storage(optuna, folder, storage),
                direction="maximize" if higher_is_better else "minimize",
                pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=first_rung, reduction_factor=RUNG),
                load_if_exists=True,
            )
        except Exception as e:
            if type(e).__module__.startswith("sqlalchemy") or isinstance(e, ImportError):
                raise UserError(f"--storage={where} cannot be used: {str(e).splitlines()[0][:200]}") from e
            raise
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
    return optuna.storages.JournalStorage(journal.JournalFileBackend(file, journal.JournalFileOpenLock(file)))
