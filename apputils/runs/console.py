"""How an entry point speaks: one clear line instead of a traceback, exit codes, log lines on screen.

`exit_codes`, `Interrupted`, `GoalMissed`, `say_on_screen`. Imports no torch.
"""

import logging
import os
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import TextIO

from compress.errors import UserError, printable
from compress.io.files import why
from compress.io.terminal import GOAL_MISSED, INTERRUPTED, LAYOUT, USER_ERROR, guard_screen

SECONDS_LATER = 10.0
BY_SIGNAL = 128  # and the signal's number, as shells have it: 130 after SIGINT, 143 after SIGTERM


class Interrupted(Exception):
    """A signal ended the run in an orderly way.

    Attributes:
        code: for the process to exit with.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.code = BY_SIGNAL + number


class GoalMissed(Exception):
    """Everything is done and written, and a goal of the schedule is missed or could not be measured."""


def exit_codes(main: Callable[[], None]) -> Callable[[], None]:
    """Decorator of an entry point: a `UserError` is printed as it stands and ends with exit code 2.

    So does whatever the system refuses, such as a full disk or a folder that cannot be written. An `Interrupted` run
    ends with 128 and the signal's number, one that is done and missed a goal with 4.
    """

    @wraps(main)
    def wrapper() -> None:
        guard_screen()
        say_on_screen()
        try:
            _check_present_folder()
            main()
        except UserError as e:
            _tell(f"error: {printable(_without_traceback(str(e)), LAYOUT)}")
            sys.exit(USER_ERROR)
        except GoalMissed as e:
            sys.stderr.write(f"{e}\n")
            sys.exit(GOAL_MISSED)
        except Interrupted as e:
            sys.stderr.write(f"{e}\n")
            sys.exit(e.code)
        except OSError as e:
            _tell(f"error: {printable(why(e), LAYOUT)}; what was saved in checkpoints/ is left as it was")
            sys.exit(USER_ERROR)
        except KeyboardInterrupt:
            sys.stderr.write("interrupted; files that were written stay\n")
            sys.exit(INTERRUPTED)

    return wrapper


def _without_traceback(message: str) -> str:
    """What an error of a process that loads data said there: torch's loader puts its traceback in front."""
    return (
        message.rpartition(f"{UserError.__name__}: ")[2].rstrip()
        if message.startswith("Caught UserError in ")
        else message
    )


def _check_present_folder() -> None:
    """Every path that is relative would fail without saying why."""
    try:
        os.getcwd()
    except OSError as e:
        raise UserError(f"the present folder cannot be used, it may have been removed: {why(e)}; cd to another") from e


def _tell(text: str) -> None:
    """Of several processes that fail alike the first one says why; `torchrun` then ends the others before they do."""
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        time.sleep(SECONDS_LATER)
        text = f"process {rank}: {text}"
    sys.stderr.write(f"{text}\n")


def say_on_screen() -> None:
    """Lines of the project's loggers go to standard output, warnings and worse to standard error."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for noisy in ("matplotlib", "PIL", "torch", "onnxscript", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if not root.handlers:
        root.addHandler(_screen(sys.stdout, logging.INFO, logging.INFO, "%(message)s"))
        root.addHandler(_screen(sys.stderr, logging.WARNING, logging.CRITICAL, "%(levelname)s: %(message)s"))


def _screen(stream: TextIO, lowest: int, highest: int, form: str) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.addFilter(lambda record: lowest <= record.levelno <= highest)
    handler.setFormatter(Printable(form))
    return handler


class Printable(logging.Formatter):
    """Lines in which names from outside steer no terminal: what cannot be printed is written out."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return printable(super().format(record), LAYOUT)
