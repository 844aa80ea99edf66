"""Source of classes and functions, each file parsed once: `source_of` and `tree_of`, for code that judges by words.

`inspect.getsource` parses the whole file anew for each class, a tenth of a second in a file of many networks.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
STATEMENTS = (ast.stmt, ast.excepthandler, ast.match_case)
"""What definitions may stand in: no need to look into expressions."""


def source_of(code: Any) -> str:
    """The text of a class or a function, as `inspect.getsource` gives it but for comments behind its last line.

    Raises:
        OSError: there is no source.
        TypeError: it is not written in Python.
    """
    found = _found(code)
    if found is None:
        return inspect.getsource(code)
    file, node = found
    return "".join(file.lines[_first_line(node) - 1 : node.end_lineno])


def tree_of(code: Any) -> ast.AST:
    """The parsed definition of a class or a function; for others, such as lambdas, the statement that it stands in.

    Raises:
        OSError, TypeError: as for `source_of`.
        SyntaxError: the statement is not one by itself.
    """
    found = _found(code)
    return ast.parse(textwrap.dedent(inspect.getsource(code))) if found is None else found[1]


@dataclass(frozen=True, eq=False)
class _File:
    """The lines of a file, and its definitions by their first line and, of classes, by qualified name."""

    lines: list[str]
    starts: dict[int, list[Definition]]
    classes: dict[str, ast.ClassDef]


_FILES: dict[str, _File] = {}


def _found(code: Any) -> tuple[_File, Definition] | None:
    """Where a class or a function is defined; None where that is not plain to see."""
    code = inspect.unwrap(code) if inspect.isfunction(code) else code
    if not inspect.isfunction(code) and not inspect.isclass(code):
        return None
    name = inspect.getsourcefile(code)
    file = _file(name) if name else None
    if file is None:
        return None
    if inspect.isclass(code):
        first = vars(code).get("__firstlineno__")  # from Python 3.13 on
        node: Definition | None = file.classes.get(code.__qualname__) if first is None else None
        starts = file.starts.get(first, []) if first is not None else []
        node = next((each for each in starts if each.name == code.__name__), node)
    else:
        starts = file.starts.get(code.__code__.co_firstlineno, [])
        node = next((each for each in starts if each.name == code.__code__.co_name), None)
    return (file, node) if node is not None else None


def _file(name: str) -> _File | None:
    linecache.checkcache(name)
    lines = linecache.getlines(name)
    known = _FILES.get(name)
    if known is not None and known.lines is lines:  # the cache holds another list once the file has changed
        return known
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return None
    if not lines:
        return None
    file = _File(lines, {}, {})
    for path, node in _definitions(tree, ()):
        file.starts.setdefault(_first_line(node), []).append(node)
        if isinstance(node, ast.ClassDef):
            file.classes.setdefault(".".join((*path, node.name)), node)
    _FILES[name] = file
    return file


def _definitions(node: ast.AST, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Definition]]:
    for each in ast.iter_child_nodes(node):
        if isinstance(each, Definition):
            yield path, each
            inside = (each.name,) if isinstance(each, ast.ClassDef) else (each.name, "<locals>")
            yield from _definitions(each, (*path, *inside))
        elif isinstance(each, STATEMENTS):
            yield from _definitions(each, path)


def _first_line(node: Definition) -> int:
    return min((each.lineno for each in node.decorator_list), default=node.lineno)
