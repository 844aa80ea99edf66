"""A file that is not YAML: what is wrong, where, the text of the line, and what to write instead."""

import re

import pytest

from compress.config.loader import load_text
from compress.errors import ScheduleError

SLIPS = {
    "tab": ("a:\n\tb: 1\n", "2:1: a tab; YAML is indented by spaces only"),
    "tab after a colon": ("a:\tb\n", "1:3: a tab; "),
    "deeper": ("a: 1\n  b: 2\n", "2:4: this line is indented deeper than the one above it, which has its value"),
    "odd indentation": ("a:\n    b:\n        c: 1\n      d: 2\n", "4:7: this line is indented by 6 spaces, which fits "
                        r"no line above it \(they stand at 8 or 4 or 0\)"),
    "a key beside list items": ("a:\n  - b: 1\n  c: 2\n", "3:3: this key stands beside the '-' of the list above it; "
                                "indent it by 4 spaces"),
    "open list": ("a: [b, c\nd: 1\n", r"1:4: this '\[' is never closed: a '\]' is missing"),
    "open list at the end": ("a: [b, c", r"1:4: this '\[' is never closed"),
    "open mapping": ("a:\n  - b: {c: d\n    e: 1\n", r"2:8: this '\{' is never closed: a '\}' is missing"),
    "open list without a value": ("a: [", r"1:5: the file ends inside a '\['"),
    "a comma too many": ("a: [b, , c]", "1:8: a value is missing before this ','"),
    "closed twice": ("a: [b]]\n", r"1:7: this '\]' closes nothing"),
    "wrong bracket": ("a: {b: [1, 2}\n", r"1:13: '\}' closes a '\['; it should be '\]'"),
    "no comma": ("a: {b: 1 c: 2}\n", "1:11: a comma is missing before this entry"),
    "glob in a list": ("a: [b.[13].weight]\n", r"1:7: a name with \[ \] or \{ \} in it needs quotes here"),
    "bare star": ("a:\n  - *.weight\n", r"2:5: a name that begins with \* needs quotes, as in '\*.weight'"),
    "bare star as a key": ("a: {*: 1}\n", r"1:5: a name that begins with \* needs quotes"),
    "bare star and a name": ("a: *conv\n", r"1:4: a name that begins with \* needs quotes"),
    "open quote": ("a: 'b\nc: 1\n", "1:4: this quote is never closed"),
    "backslash": ('a: "re:b\\.c"\n', "1:10: a backslash inside double quotes; write single ones"),
    "percent": ("a: %b\n", "1:4: a text that begins with '%' needs quotes"),
    "no colon": ("a:\n  b 1\n  c: 2\n", "2:6: a ':' is missing after the key"),
    "no colon in the last line but one": ("a: 1\nb 2\nc: 3\n", "2:4: a ':' is missing after the key"),
    "equals sign": ("a = 1\nb: 2\n", "1:6: a ':' is missing after the key"),
    "no space after the colon": ("a: 1\nb:2\nc: 3\n", "2:3: a space is missing after the ':'"),
    "no space after the dash": ("a:\n  -b: 1\n    c: 2\n", "2:4: a space is missing after the '-' of this list item"),
    "two colons": ("a: b: c\n", "1:5: a second ':' in one line"),
    "two documents": ("a: 1\n---\nb: 2", "2:1: a second document begins here"),
    "a tag": ("a: !!python/name:os.system x", "1:4: the tag '.*os.system' would make an object; a schedule"),
    "a character": ("a: 1\nb: \x00", r"2:1: the character U\+0000 may not stand in YAML"),
    "anything else": ("a: &\n", "this is not plain YAML: while scanning an anchor"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), SLIPS.values(), ids=SLIPS.keys())
def test_a_slip_is_told_in_words_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=f"  s.yaml:{message}" if message[0].isdigit() else message) as caught:
        load_text(text, "s.yaml")
    assert "while parsing" not in str(caught.value)


def test_the_line_is_shown_with_a_caret_below_the_place() -> None:
    with pytest.raises(ScheduleError) as caught:
        load_text("pruners:\n  p:\n    class:A\n    weights: [a]\n", "s.yaml")
    title, _, line, caret = str(caught.value).splitlines()
    assert title == "the schedule has 1 fault; nothing was started:"
    assert line == "    3 |     class:A"
    assert line[caret.index("^")] == "A"


def test_an_endless_line_is_shown_around_the_place() -> None:
    with pytest.raises(ScheduleError) as caught:
        load_text("a: [" + "b, " * 5000 + "*]", "s.yaml")
    assert all(len(line) < 250 for line in str(caught.value).splitlines())
    assert re.search(r"b, \*\]$", str(caught.value).splitlines()[2])
