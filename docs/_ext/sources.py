"""What the sources hold, found by ast: public names, missing docstrings.

Here: nothing is imported, so it is quick. Called by the manual's build and by tests/test_docs.py.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = ("compress", "apputils")
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def modules() -> dict[str, Path]:
    """Module name -> file, of every documented package; a package's own module is its `__init__`."""
    found = {}
    for top in DOCUMENTED:
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def public_names() -> dict[str, list[str]]:
    """Short name -> the full names of the public classes and functions that are called so."""
    found: dict[str, list[str]] = {}
    for module, path in modules().items():
        for node in _public(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(node.name, []).append(f"{module}.{node.name}")
    return found


def stated_names(package: str) -> dict[str, list[str]]:
    """Subject -> names of a package's `__all__`; the comments in it are the subjects."""
    text = (ROOT / package / "__init__.py").read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}
    for line in text.partition("__all__ = [")[2].partition("\n]")[0].splitlines()[1:]:
        if line.strip().startswith("# "):
            names = found.setdefault(line.strip()[2:], [])
        else:
            names += re.findall(r'"(\w+)"', line)
    return found


def undocumented() -> list[str]:
    """`file:line: name` of every public module, class, function and method without a docstring.

    Empty `__init__` files need none; nor do overriding methods whose base is outside, such as `forward`.
    """
    faults = []
    for path in modules().values():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        where = path.relative_to(ROOT)
        if text.strip() and not ast.get_docstring(tree):
            faults.append(f"{where}:1: the module")
        for node in _public(tree):
            members = _public(node) if isinstance(node, ast.ClassDef) else ()
            for each, name in ((node, node.name), *((member, f"{node.name}.{member.name}") for member in members)):
                if not ast.get_docstring(each) and each.name != "forward":
                    faults.append(f"{where}:{each.lineno}: {name}")
    return faults


def _public(node: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield child
