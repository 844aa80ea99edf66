"""Warnings of a run are gathered once each, in order, with their epochs."""

import logging

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
