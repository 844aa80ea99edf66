"""The measuring itself: every level of every weight, in this process or shared between several.

`measure_all`. Processes are spawned, each has its own copy of the network and its share of threads and memory; they
take weights in the order of execution, the longest first. A spawned process imports everything anew and has nothing
of what its parent changed at run time, so each measures the dense network first, which must give the parent's numbers.
"""

import contextlib
import logging
import math
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch
import torch.nn.modules.module as every_module
from torch import nn

from compress.analysis.sensitivity.changes import Subject, find_subjects
from compress.analysis.sensitivity.meter import Meter
from compress.analysis.sensitivity.replay import choose_meter
from compress.analysis.sensitivity.suggestion import Tolerated
from compress.errors import UserError
from compress.graph.channels import ChannelGraph

logger = logging.getLogger("run")
BY_SIGNAL = 128  # and the signal's number: what shells make of a process that a signal ended
Row = dict[str, Any]  # level, zeros, metrics
Done = Mapping[str, Mapping[float, Row]]


@dataclass(frozen=True)
class Task:
    """What is measured.

    Attributes:
        sense_type: of the analysis.
        levels: in the order of growing harm.
        names: the subjects'.
        done: rows that are there already.
        dense: the dense network's metrics.
        goal: whose loss `stop_at_loss` is about.
        stop_at_loss: a weight is left after a level that loses more; None: never.
        cache_bytes: most memory of all processes together for kept values.
        weights: all that the subjects are about: several of one coupled group share one.
        graph: by which filters and channels go together; None where there is none.
    """

    sense_type: str
    levels: Sequence[float]
    names: Sequence[str]
    done: Done
    dense: dict[str, float]
    goal: Tolerated
    stop_at_loss: float | None
    cache_bytes: int
    weights: Sequence[str] = ()
    graph: ChannelGraph | None = None


def measure_all(
    model: nn.Module, test_func: Any, meter: Meter, subjects: Sequence[Subject], task: Task, jobs: int
) -> Iterator[tuple[str, Row]]:
    """Weight and row of every level that is not done yet.

    Raises:
        UserError: the network or the test function cannot be sent to other processes, or one of these died.
    """
    jobs = min(jobs, len(subjects))
    measured: set[str] = set()
    why = _of_this_process_only() if jobs > 1 else ""
    if jobs > 1 and not why:
        try:
            for name, row in _shared(model, test_func, len(subjects), task, jobs):
                measured.add(name)
                yield name, row
            return
        except _DiffersError as e:
            why = str(e)
    if why:
        logger.warning("the sensitivity analysis runs in one process instead of %d: %s", jobs, why)
    for subject in meter.order([each for each in subjects if each.name not in measured]):
        for row in levels_of(meter, subject, task):
            yield subject.name, row


def levels_of(meter: Meter, subject: Subject, task: Task) -> Iterator[Row]:
    """The rows of one weight that are not done; a level that changes nothing more is not measured again."""
    before, metrics = {name: each.detach().clone() for name, each in subject.parameters.items()}, task.dense
    for level in task.levels:
        found = task.done.get(subject.name, {}).get(level)
        if found is None:
            values = subject.values(level)
            if not all(torch.equal(value, before[name]) for name, value in values.items()):
                before.update(values)
                metrics = meter.changed(subject, values[subject.name], values)
            found = {"level": level, "zeros": subject.zeros(values), "metrics": metrics}
            yield found
        loss = task.goal.loss(found["metrics"][task.goal.metric])
        if task.stop_at_loss is not None and loss > task.stop_at_loss:
            return


def _shared(model: nn.Module, test_func: Any, count: int, task: Task, jobs: int) -> Iterator[tuple[str, Row]]:
    payload = _packed((model, test_func, task, jobs))
    threads = max(1, torch.get_num_threads() // jobs)
    with (
        _ended_by_sigterm() as started,
        ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (payload, threads)) as pool,
    ):
        try:
            waiting = [pool.submit(_one_weight, place) for place in range(count)]
            started()
            for future in as_completed(waiting):
                name, rows, differs = future.result()
                if differs:
                    raise _DiffersError(differs)
                for row in rows:
                    yield name, row
        except BrokenProcessPool as e:
            raise UserError(
                f"a process of jobs={jobs} died. A script that asks for jobs needs `if __name__ == '__main__':` around "
                "what it runs; else memory may have run out. What was measured is kept, and is gone on with"
            ) from e
        except BaseException:  # nobody waits for what is under way
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[Callable[[], None]]:
    """Inside, SIGTERM ends this process as an error does, once all others are `started`: by itself it leaves them."""
    asked: list[int] = []
    ready: list[bool] = []

    def end(number: int, frame: Any) -> None:
        asked.append(number)
        if ready:
            raise SystemExit(BY_SIGNAL + number)

    def started() -> None:
        ready.append(True)
        if asked:
            raise SystemExit(BY_SIGNAL + asked[0])

    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield started
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield started
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _DiffersError(Exception):
    """A process of ours measures something else than this one."""


def _of_this_process_only() -> str:
    """What this process set at run time for all networks and other processes do not have; '' where there is nothing."""
    if every_module._global_forward_hooks or every_module._global_forward_pre_hooks:
        return "hooks on all modules (register_module_forward_hook and its like) are on those of this process only"
    if torch._C._is_any_autocast_enabled():
        return "torch.autocast around the analysis is on in this process only; test_func may switch it on itself"
    if torch.get_default_dtype() is not torch.float32:
        return f"the default type {torch.get_default_dtype()} is set in this process only"
    return ""


def _packed(parts: Any) -> bytes:
    """As bytes: the usual way would share the weights' memory, which every process changes."""
    try:
        return pickle.dumps(parts)
    except UNPICKLABLE as e:
        raise UserError(
            f"jobs sends the network and test_func to other processes, which failed with {_culprit(*parts[:2])}: {e}. "
            "Define its class or function at the top of a module (no lambda, no function inside a function), or leave "
            "jobs at 1"
        ) from e


UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError, RuntimeError)


def _culprit(model: nn.Module, test_func: Any) -> str:
    """Which part cannot be pickled: the innermost module, or the test function."""
    for name, module in reversed(list(model.named_modules())):
        if not _can_be_packed(module):
            return f"module {name!r} ({type(module).__name__})" if name else f"the network ({type(module).__name__})"
    return "test_func"


def _can_be_packed(part: Any) -> bool:
    try:
        pickle.dumps(part)
    except UNPICKLABLE:
        return False
    return True


_here: dict[str, Any] = {}  # of a worker process: what every weight needs


def _begin(payload: bytes, threads: int) -> None:
    """A worker process starts."""
    torch.set_num_threads(threads)
    logging.disable(logging.WARNING)  # the first process has said it
    model, test_func, task, jobs = pickle.loads(payload)  # from our own parent process
    try:
        subjects = find_subjects(model, task.sense_type, task.weights, task.graph)
        meter = choose_meter(model, test_func, subjects, task.cache_bytes // jobs)
        differs = _difference(task.dense, meter.dense())
    except Exception as e:  # any network's code runs here; in the parent it ran
        _here["differs"] = f"in another one the dense network fails with {type(e).__name__}: {e}{CHANGED}"
        return
    _here.update(meter=meter, task=task, subjects=meter.order(subjects), differs=differs)


CHANGED = "; what was changed at run time (a class, a global, a setting of torch) is changed in this process only"
ROUNDING = 1e-5  # of a metric: what another number of threads may move


def _difference(here: Mapping[str, float], there: Mapping[str, float]) -> str:
    """How the dense metrics of two processes differ; '' where they do not."""
    for name in {**here, **there}:
        one, other = here.get(name), there.get(name)
        if one is None or other is None:
            return f"the dense network has no metric {name} {'here' if one is None else 'in another one'}{CHANGED}"
        if not math.isclose(one, other, rel_tol=ROUNDING) and not (math.isnan(one) and math.isnan(other)):
            return f"the dense network's {name} is {one:.8g} here and {other:.8g} in another one{CHANGED}"
    return ""


def _one_weight(place: int) -> tuple[str, list[Row], str]:
    """The weight's name and rows, and how this process differs from its parent, which leaves it none."""
    if _here["differs"]:
        return "", [], _here["differs"]
    subject = _here["subjects"][place]
    return subject.name, list(levels_of(_here["meter"], subject, _here["task"])), ""
