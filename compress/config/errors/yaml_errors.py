"""What is wrong with a file that is not YAML, in people's words: what, the text of the line, and what to write.

The common slips of a hand-written file, told apart by what the parser stumbled over and by the lines around it.
"""

import re
from collections.abc import Callable

import yaml

WIDTH = 100  # characters of a line that are shown
Slip = tuple[str, int, int]  # what to say, line and column, both from 0


def explain(error: yaml.MarkedYAMLError, text: str) -> tuple[str, tuple[int, int]]:
    """A parser's error -> a message that shows the line, and its (line, column), both from 1."""
    assert error.problem_mark is not None
    lines = text.splitlines() or [""]
    for find in FINDERS:
        slip = find(error, lines)
        if slip is not None:
            break
    else:
        parts = ", ".join(part for part in (error.context, error.problem) if part)
        slip = f"this is not plain YAML: {parts}", error.problem_mark.line, error.problem_mark.column
    message, line, column = slip
    return message + shown_line(lines, line, column), (line + 1, column + 1)


def shown_line(lines: list[str], line: int, column: int) -> str:
    """The text of a line with a caret below the column, each on a line of its own."""
    if not 0 <= line < len(lines):
        return ""
    start = max(0, column - WIDTH + 10)
    piece = "".join(c if c.isprintable() else "→" if c == "\t" else "?" for c in lines[line][start : start + WIDTH])
    head = f"    {line + 1} | "
    return f"\n{head}{piece}\n{' ' * (len(head) - 2)}| {' ' * (column - start)}^"


def _tab(error: yaml.MarkedYAMLError, lines: list[str]) -> Slip | None:
    if r"'\t'" not in _problem(error):
        return None
    return "a tab; YAML is indented by spaces only: put spaces in its place", *_problem_place(error)


def _bracket(error: yaml.MarkedYAMLError, lines: list[str]) -> Slip | None:
    """Inside `[...]` or `{...}`."""
    if error.context == "while parsing a flow node":
        found = _problem(error).rpartition("found ")[2]
        if found == "'<stream end>'":
            return "the file ends inside a '[' or '{' that is never closed", *_problem_place(error)
        return f"a value is missing before this {found}", *_problem_place(error)
    if error.context not in ("while parsing a flow sequence", "while parsing a flow mapping"):
        return None
    assert error.context_mark is not None
    line, column = error.context_mark.line, error.context_mark.column
    opening, closing = ("[", "]") if "sequence" in error.context else ("{", "}")
    got, problem = _problem(error).rpartition("got ")[2], _problem_place(error)
    if problem[0] > line or got == "'<stream end>'":
        return f"this {opening!r} is never closed: a {closing!r} is missing", line, column
    if got in ("']'", "'}'"):
        return f"{got} closes a {opening!r}; it should be {closing!r}", *problem
    if got == "':'":
        return f"a comma is missing before this entry, or the {closing!r} that ends the one before", *problem
    return "a name with [ ] or { } in it needs quotes here, as in 'conv[12].weight'", *problem


def _star(error: yaml.MarkedYAMLError, lines: list[str]) -> Slip | None:
    if error.context != "while scanning an alias" and "undefined alias" not in _problem(error):
        return None
    place = error.context_mark or error.problem_mark
    assert place is not None
    return "a name that begins with * needs quotes, as in '*.weight'", place.line, place.column


def _quote(error: yaml.MarkedYAMLError, lines: list[str]) -> Slip | None:
    if "quoted scalar" not in (error.context or ""):
        return None
    assert error.context_mark is not None
    if "escape" in _problem(error):
        return r"a backslash inside double quotes; write single ones, as in 're:conv\.[12]'", *_problem_place(error)
    return "this quote is never closed", error.context_mark.line, error.context_mark.column


def _character(error: yaml.MarkedYAMLError, lines: list[str]) -> Slip | None:
    found = re.match(r"found character (.+) that cannot start any token", _problem(error))
    return (f"a text that begins with {found[1]} needs quotes", *_problem_place(error)) if found else None


def _colon(error: yaml.MarkedYAMLError, lines: list[str]) -> Slip | None:
    """A key without its colon, or a colon too many."""
    line, column = _problem_place(error)
    if "could not find expected ':'" in _problem(error):
        assert error.context_mark is not None
        return _keyless(lines, error.context_mark.line)
    if _problem(error) != "mapping values are not allowed here":
        return None
    if re.search(r":\s", lines[line][:column]):
        return "a second ':' in one line: a text with ': ' in it needs quotes, a key a line of its own", line, column
    above = _above(lines, line)
    if above is not None and (dash := _tight_dash(lines, above)):
        return dash
    if above is None or re.match(r"\s*(- +)*('[^']*'|\"[^\"]*\"|[^\s:#][^:#]*):\s", lines[above] + " "):
        return "this line is indented deeper than the one above it, which has its value already", line, column
    return _keyless(lines, above)


def _keyless(lines: list[str], line: int) -> Slip:
    """A line that should be `key: value` and is not."""
    text = lines[line]
    tight = re.search(r"\w:(?=\S)", text)
    if tight:
        return "a space is missing after the ':' (`key: value`)", line, tight.end()
    return "a ':' is missing after the key (`key: value`)", line, len(text.rstrip())


def _indentation(error: yaml.MarkedYAMLError, lines: list[str]) -> Slip | None:
    found = re.match(r"expected <block end>, but found '(.*)'", _problem(error))
    if found is None:
        return None
    line, column = _problem_place(error)
    above = _above(lines, line)
    if found[1] in ("]", "}"):
        return f"this {found[1]!r} closes nothing", line, column
    if above is not None and (dash := _tight_dash(lines, above)):
        return dash
    if found[1] == "?" and error.context == "while parsing a block collection":
        return f"this key stands beside the '-' of the list above it; indent it by {column + 2} spaces", line, column
    steps = _steps(lines, line)
    if _indent(lines[line]) in steps:
        return "a list item and a key stand in one column; give one of them a place of its own", line, column
    return (
        f"this line is indented by {_indent(lines[line])} spaces, which fits no line above it (they stand at "
        f"{' or '.join(map(str, steps))}); lines that belong together begin in the same column",
        line,
        column,
    )


def _tight_dash(lines: list[str], line: int) -> Slip | None:
    tight = re.match(r"\s*-(?=[A-Za-z])", lines[line])
    return ("a space is missing after the '-' of this list item", line, tight.end()) if tight else None


def _steps(lines: list[str], line: int) -> list[int]:
    """The indentations that the next line could continue, deepest first."""
    found: list[int] = []
    for text in reversed(lines[:line]):
        if text.strip() and not text.lstrip().startswith("#") and (not found or _indent(text) < found[-1]):
            found.append(_indent(text))
    return found


def _tag(error: yaml.MarkedYAMLError, lines: list[str]) -> Slip | None:
    found = re.match(r"could not determine a constructor for the tag '(.*)'", _problem(error))
    if found is None:
        return None
    return f"the tag {found[1][:80]!r} would make an object; a schedule is plain data", *_problem_place(error)


def _documents(error: yaml.MarkedYAMLError, lines: list[str]) -> Slip | None:
    if "another document" not in _problem(error):
        return None
    return "a second document begins here; a schedule is a single document in its file", *_problem_place(error)


def _braces(error: yaml.MarkedYAMLError, lines: list[str]) -> Slip | None:
    if not re.search("unhashable key|key must be plain text", _problem(error)):
        return None
    more = "; `{{` is one brace too many" if "{{" in lines[_problem_place(error)[0]] else ""
    return f"a key must be plain text{more}", *_problem_place(error)


FINDERS: tuple[Callable[[yaml.MarkedYAMLError, list[str]], Slip | None], ...] = (
    _tab, _bracket, _star, _quote, _character, _colon, _indentation, _tag, _documents, _braces,
)  # fmt: skip


def _problem(error: yaml.MarkedYAMLError) -> str:
    return error.problem or ""


def _problem_place(error: yaml.MarkedYAMLError) -> tuple[int, int]:
    assert error.problem_mark is not None
    return error.problem_mark.line, error.problem_mark.column


def _above(lines: list[str], line: int) -> int | None:
    """The nearest line above that is neither empty nor a comment."""
    return next((i for i in reversed(range(line)) if lines[i].strip() and not lines[i].lstrip().startswith("#")), None)


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip(" "))
