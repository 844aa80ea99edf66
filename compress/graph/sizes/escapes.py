"""Sizes that become plain numbers or texts, and choices that the code makes by those: `choice_by`.

`int(h)`, `math.log(h)`, `len(x)` and `f"{h}"` give values that remember nothing. Where one is made, the code around it
is read: whether it is compared there, in a line below under the name that it gets, or where a helper returns it.

    if len(x) >= 8: ...                     # yes
    n = int(x.shape[0]) // 2
    if n > 4: ...                           # yes: a test names n
    assert len(x) == len(y)                 # no: a check
    x.view(int(h), -1)                      # no choice
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import linecache
import textwrap
from collections.abc import Iterator
from types import CodeType, FrameType

from compress.graph.own_code import is_foreign

CARRY = frozenset(
    """int float str repr len abs round min max sum bool divmod pow hash list tuple sorted prod sqrt isqrt log log2
    log10 log1p exp ceil floor trunc asarray array int64 int32 float64 float32 item format index numel nelement unbind
    split chunk tensor_split range""".split()  # noqa: SIM905
)
"""Calls whose result follows from the size that goes in."""
LOOK_UP = frozenset({"get", "pop", "setdefault", "hasattr", "getattr", "startswith"})
HELPERS = 3
"""So many functions deep a returned number is followed to who calls."""
SIZES = (".shape", ".size(", "len(", ".numel(", ".dim(")


def choice_by(frame: FrameType | None, how: str = "value") -> FrameType | None:
    """The frame in which the code chooses by what it computes at this moment, of one of its callers if need be.

    None where it does not, or where that is a check. Where no source is at hand it may choose.

    Args:
        frame: of the code that computes it.
        how: `value`, `key` (a dictionary or a set looks for it), or `parts`: how many there are is computed.
    """
    for _ in range(HELPERS):
        if frame is None or not is_foreign(frame.f_globals.get("__name__", "")):
            return None
        if frame.f_code.co_name.startswith("<") and frame.f_code.co_name != "<lambda>":  # a comprehension
            frame = frame.f_back
            continue
        found = _fate(frame.f_code, frame.f_lasti, how)
        if found != "returned":
            return frame if found == "chosen" else None
        frame, how = frame.f_back, "value"
    return None


@functools.lru_cache(maxsize=4096)
def _fate(code: CodeType, instruction: int, how: str) -> str:
    """What becomes of the value of an instruction: `chosen`, `returned`, or nothing of the kind."""
    where = next(itertools.islice(code.co_positions(), instruction // 2, None), (None,) * 4)
    if not linecache.getline(code.co_filename, code.co_firstlineno) or where[0] is None:
        return "chosen"
    parsed = _parsed(code)
    if parsed is None:
        return ""
    root, line, column = parsed
    start = (where[0] - line, (where[2] or 0) - column)
    end = ((where[1] or where[0]) - line, (where[3] or 0) - column)
    inside = [each for each in ast.walk(root) if isinstance(each, ast.expr) and _covers(each, start, end)]
    return _climbed(inside[-1], root, how) if inside else ""  # walk goes outside in


@functools.lru_cache(maxsize=256)
def _parsed(code: CodeType) -> tuple[ast.AST, int, int] | None:
    """The tree of a function, and what its lines and columns differ by from the file's."""
    lines = linecache.getlines(code.co_filename)
    try:
        block = inspect.getblock(lines[code.co_firstlineno - 1 :])
        text = "".join(block)
        return ast.parse(textwrap.dedent(text)), code.co_firstlineno - 1, len(text) - len(text.lstrip())
    except (SyntaxError, ValueError):  # a lambda in the midst of a call
        return _whole(code.co_filename)


@functools.lru_cache(maxsize=8)
def _whole(file: str) -> tuple[ast.AST, int, int] | None:
    try:
        return ast.parse("".join(linecache.getlines(file))), 0, 0
    except (SyntaxError, ValueError):
        return None


def _covers(node: ast.expr, start: tuple[int, int], end: tuple[int, int]) -> bool:
    return (node.lineno, node.col_offset) <= start and (node.end_lineno or 0, node.end_col_offset or 0) >= end


def _climbed(node: ast.AST, root: ast.AST, how: str) -> str:
    """What becomes of an expression's value."""
    parents = {child: each for each in ast.walk(root) for child in ast.iter_child_nodes(each)}
    if how == "key":
        looks = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load)
        return "chosen" if (looks or _is_choice(node, None)) and not _is_check(node, parents) else ""
    above, child, counted, fate = node, None, how == "parts", None  # type: ast.AST | None, ast.AST | None, bool, str | None
    while above is not None and fate is None:
        is_length = child is not None and isinstance(above, ast.Call) and _called(above) == "len"
        counted = counted and not is_length
        fate = _ends(above, child, parents, counted)
        above, child = parents.get(above), above
    return fate or ""


def _ends(node: ast.AST, child: ast.AST | None, parents: dict[ast.AST, ast.AST], counted: bool) -> str | None:
    """What becomes of a value where it comes to a part of the code; None if it goes on."""
    if _is_choice(node, child):
        return "" if _is_check(node, parents) else "chosen"
    if isinstance(node, ast.Return | ast.Lambda):
        return "returned"
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
        tests = _tests_of(names, _function_around(node, parents), counted)
        if any(not _is_check(each, parents) for each in tests):
            return "chosen"
        return None if isinstance(node, ast.NamedExpr) else ""
    lost = (counted and child is not None) or not _carries(node, child)
    return "" if lost else None


def _is_choice(node: ast.AST, child: ast.AST | None) -> bool:
    """Whether a part of the code decides by the value of a part of it, or of itself."""
    if isinstance(node, ast.Compare):
        return True
    if isinstance(node, ast.If | ast.While | ast.IfExp | ast.Assert):
        return child is node.test
    if isinstance(node, ast.Match):
        return child is node.subject
    if isinstance(node, ast.Call):
        return _called(node) in LOOK_UP and child is not node.func
    return isinstance(node, ast.Subscript) and child is node.slice and isinstance(child, ast.JoinedStr | ast.Call)


def _carries(node: ast.AST, child: ast.AST | None) -> bool:
    """Whether the value of a part goes on into what it is a part of."""
    if child is None:
        return True
    if isinstance(node, ast.Call):
        return _called(node) in CARRY
    kinds = (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.JoinedStr, ast.FormattedValue, ast.Tuple, ast.List, ast.Starred)
    return isinstance(node, (*kinds, ast.Attribute, ast.keyword)) or (
        isinstance(node, ast.Subscript) and child is node.value
    )


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _function_around(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> ast.AST:
    while node in parents and not isinstance(node, ast.FunctionDef):
        node = parents[node]
    return node


def _tests_of(names: set[str], function: ast.AST, counted: bool) -> Iterator[ast.AST]:
    """The comparisons and tests that name one of these, itself or in a sum, and not an attribute of it.

    Where parts are `counted`, their number.
    """
    for each in ast.walk(function):
        tested = [each.left, *each.comparators] if isinstance(each, ast.Compare) else []
        tested += [each.test] if isinstance(each, ast.If | ast.While | ast.IfExp) else []
        calls = [call for part in tested for call in ast.walk(part) if isinstance(call, ast.Call)]
        tested = [call for call in calls if _called(call) == "len"] if counted else tested
        if any(_names(part) & names for part in tested):
            yield each


def _names(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(
        node, ast.Attribute | ast.Subscript | ast.Compare
    ):  # `parts[0].shape`; a comparison stands for itself
        return set()
    return {name for each in ast.iter_child_nodes(node) for name in _names(each)}


def _is_check(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """An assertion, what stands before a `raise`, and two sizes that are compared."""
    if isinstance(node, ast.Compare) and all(_is_size(part) for part in (node.left, *node.comparators)):
        return True
    above: ast.AST | None = node
    while above is not None and not isinstance(above, ast.stmt):
        above = parents.get(above)
    if isinstance(above, ast.If | ast.While):
        return isinstance(above.body[0], ast.Raise)
    return isinstance(above, ast.Assert) or (isinstance(above, ast.Expr) and "assert" in ast.unparse(above)[:20])


def _is_size(node: ast.AST) -> bool:
    return any(sign in ast.unparse(node) for sign in SIZES)
