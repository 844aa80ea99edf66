"""Docstrings and signatures of the code -> what Sphinx's autodoc understands.

Here: plain English with `code` in single backticks and indented excerpts -> reStructuredText; signatures without the
limits that `Annotated` carries. Not here: the pages (pages.py).
"""

import inspect
import re
import typing
from typing import Any

import sources
from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

HEADERS = ("Args:", "Attributes:", "Returns:", "Raises:", "Yields:", "Example:", "Examples:")
CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINKS = {short: full[0] for short, full in sources.public_names().items() if len(full) == 1}
FULL = {name for full in sources.public_names().values() for name in full}


def to_rst(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Rewrites a docstring in place (event `autodoc-process-docstring`, before napoleon)."""
    out: list[str] = []
    prose: list[str] = []
    section = ""
    rest = list(lines)
    while rest:
        line = rest.pop(0)
        if line in HEADERS or line == "Sample:":
            out += escaped(prose, section)
            prose, section = [], line
            if line != "Sample:":
                prose.append(line)
        elif section == "Sample:" or (section == "" and _is_excerpt(line, prose)):
            block = [line]
            while rest and (not rest[0] or rest[0].startswith(" ")):
                block.append(rest.pop(0))
            out += [*escaped(prose, section), "", *_literal(block, "yaml" if section else "text"), ""]
            prose, section = [], ""
        else:
            prose.append(line)
    lines[:] = out + escaped(prose, section)


def skip_field_numbers(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of named tuples, which their class describes (event `autodoc-skip-member`)."""
    return True if (inspect.getdoc(obj) or "").startswith("Alias for field number") else None


def _is_excerpt(line: str, before: list[str]) -> bool:
    """Whether an indented block of code begins: indented by four, after an empty line, not a list."""
    indented = line.startswith("    ") and not line.lstrip().startswith(("- ", "* "))
    return indented and (not before or not before[-1].strip())


def _literal(block: list[str], language: str) -> list[str]:
    if block[0].lstrip().startswith(">>>"):
        language = "python"
    return [f".. code-block:: {language}", "", *block]


def escaped(lines: list[str], section: str = "") -> list[str]:
    """The lines with reStructuredText's special characters made plain, and code in double backticks or linked."""
    if section == "Raises:":
        lines = [re.sub(r"^(    )(\w+)(?=:)", lambda m: m[1] + LINKS.get(m[2], m[2]), line) for line in lines]
    parts = CODE.split("\n".join(lines))  # text, code, text, code, ...
    for i, part in enumerate(parts):
        parts[i] = _code(part) if i % 2 else re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", part)
    return "".join(parts).split("\n")


def _code(text: str) -> str:
    if text in LINKS:
        return f":py:obj:`{text} <{LINKS[text]}>`"
    return f":py:obj:`{text}`" if text in FULL else f"``{text}``"


def plain_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str] | None:
    """The signature without `Annotated` (event `autodoc-process-signature`)."""
    if what not in ("class", "function", "method") or signature is None:
        return None
    function = obj.__init__ if inspect.isclass(obj) else obj
    try:
        hints = typing.get_type_hints(function)
        given = inspect.signature(obj)
    except (NameError, TypeError, ValueError):
        return None
    parameters = [each.replace(annotation=hints.get(each.name, each.annotation)) for each in given.parameters.values()]
    if what == "method" and parameters and parameters[0].name in ("self", "cls"):
        del parameters[0]
    result = inspect.Signature.empty if what == "class" else hints.get("return", inspect.Signature.empty)
    text = stringify_signature(
        given.replace(parameters=parameters, return_annotation=result), unqualified_typehints=True, short_literals=True
    )
    head, arrow, tail = text.rpartition(" -> ")
    return (head, tail) if arrow else (text, "")
