"""Warnings of a run are gathered once each, in order, with their epochs."""

import logging
import os

import pytest
from torch.utils.data import DataLoader, Dataset

from apputils.runs.run_warnings import MOST, RunWarnings, warnings_text


def test_warnings_of_ours_are_gathered_inside_the_block_only() -> None:
    run, other = logging.getLogger("run"), logging.getLogger("somebody.else")
    run.warning("before")
    with RunWarnings() as heard:
        run.info("not a warning")
        other.warning("theirs")
        run.warning("at %d %%", 26)
        heard.epoch = 3
        logging.getLogger("compress").warning("again")
        logging.getLogger("data.data").error("again")
    run.warning("after")
    assert heard.entries == [
        {"epoch": None, "text": "at 26 %", "count": 1}, {"epoch": 3, "text": "again", "count": 2},
    ]  # fmt: skip
    assert warnings_text(heard.entries) == "warnings of this run (2):\n  at 26 %\n  epoch 3, 2 times: again"


class Warned(Dataset[int]):
    """Warns of each sample, in whatever process loads it."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        logging.getLogger("data").warning("skipped %s \x1b \u00e9%s", "one" if index < 2 else "two", "x" * 10_000)
        return index


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")
def test_warnings_of_forked_workers_are_gathered_with_the_epoch_under_way() -> None:
    loader = DataLoader(Warned(), num_workers=1, persistent_workers=True, multiprocessing_context="fork")
    with RunWarnings() as heard:
        for epoch in range(2):
            heard.epoch = epoch
            list(loader)
        heard.epoch = None
        texts = [(each["epoch"], each["text"][:11], each["count"]) for each in heard.entries]
    assert sorted(texts) == [(0, "skipped one", 4), (0, "skipped two", 2)]
    del loader


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")
def test_a_worker_does_not_wait_for_a_full_pipe() -> None:
    with RunWarnings() as heard:
        child = os.fork()
        if not child:
            for number in range(2000):
                logging.getLogger("data").warning("skipped %d %s", number % 3, "x" * 600)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert {entry["text"][:9] for entry in heard.entries} == {"skipped 0", "skipped 1", "skipped 2"}


def test_a_resumed_run_keeps_earlier_warnings_and_counts_none_twice() -> None:
    heard = RunWarnings()
    heard.add({"epoch": None, "text": "a", "count": 1})
    heard.add({"epoch": None, "text": "c", "count": 1})
    heard.put_before([{"epoch": 0, "text": "b", "count": 2}, {"epoch": None, "text": "a", "count": 1}])
    assert [(entry["text"], entry["count"]) for entry in heard.entries] == [("b", 2), ("a", 1), ("c", 1)]


def test_their_number_is_bounded() -> None:
    heard = RunWarnings()
    for number in range(3 * MOST):
        heard.add({"epoch": number, "text": f"warning {number}", "count": 1})
    assert len(heard.entries) == MOST + 1
    assert heard.entries[-1] == {"epoch": None, "text": "further warnings are in log.txt alone", "count": 2 * MOST}
    assert warnings_text([]) == ""
