"""Imports point one way, inside compress/ and between the rooms."""

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {  # room -> what it may import of ours
    "compress": {"compress"},
    "apputils": {"apputils", "compress"},
    "data": {"data", "compress"},
    "options": {"options", "apputils", "compress"},  # of the two last only what needs no torch: tests/options
    "engine": {"engine", "options", "data", "apputils", "compress"},
    "models": {"models", "engine", "options", "data", "apputils", "compress"},
}
LAYERS = [  # inside compress/, from the bottom; a module imports its own layer and those below
    {"errors", "distributed", "epoch_window", "parameters"},
    {"arguments"},
    {"io", "registry", "selectors", "criteria", "groups", "levels", "freezing"},
    {"masks"},
    {"graph"},
    {"calibration"},
    {"thinning", "fusing"},
    {"context"},
    {"pruning", "regularization", "quantization", "distillation", "lr"},
    {"export"},
    {"goals"},
    {"policies"},
    {"plan"},
    {"scheduler"},
    {"config"},
    {"analysis"},
    {"integrations"},
]


def _imports(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0]
    found += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree)), f"{path}: relative"
    return found


def _layer(part: str) -> int:
    for level, names in enumerate(LAYERS):
        if part in names:
            return level
    raise AssertionError(f"compress/{part} has no layer; give it one in LAYERS")


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_rooms_import_only_what_they_may(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        ours = {name.split(".")[0] for name in _imports(path)} & {*ROOMS, "tests", "train", "test"}
        assert ours <= ROOMS[room], f"{path.relative_to(ROOT)} imports {ours - ROOMS[room]}"


def test_inside_compress_imports_point_down() -> None:
    checked = 0
    for path in sorted((ROOT / "compress").rglob("*.py")):
        here = path.relative_to(ROOT / "compress").with_suffix("").parts[0]
        if here == "__init__":
            continue
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == "compress" and len(parts) > 1:
                checked += 1
                assert _layer(parts[1]) <= _layer(here), f"{path.relative_to(ROOT)} imports {name}, which is above it"
    assert checked > 50


def test_families_do_not_import_each_other() -> None:
    families = {"pruning", "regularization", "quantization", "distillation", "lr"}
    for family in sorted(families):
        for path in sorted((ROOT / "compress" / family).rglob("*.py")):
            others = {f"compress.{other}" for other in families - {family}}
            assert not [n for n in _imports(path) if ".".join(n.split(".")[:2]) in others], path


def test_entry_points_are_short() -> None:
    for name in ("train.py", "test.py", "search.py"):
        assert len((ROOT / name).read_text().splitlines()) <= 40


def test_no_cycle_between_modules() -> None:
    """Imports at the top of modules, those under TYPE_CHECKING too; one inside a function may only point down."""
    assert _cycles(_graph()) == []


def test_a_cycle_is_found_by_its_modules() -> None:
    assert _cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d", "a"}}) == [["b", "c"], ["d"]]


def _graph() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports at its top."""
    names = {_module(path): path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))}
    return {name: _imported_on_top(path, names) - {_package(path)} for name, path in names.items()}


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _package(path: Path) -> str:
    """The package of a module: importing a sibling runs it, which is not a dependency on its content."""
    return _module(path.parent / "__init__.py") if path.name != "__init__.py" else ""


def _imported_on_top(path: Path, names: Mapping[str, Path]) -> set[str]:
    found: set[str] = set()
    waiting: list[ast.AST] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            within = {f"{node.module}.{alias.name}" for alias in node.names} & names.keys()
            found |= within or {str(node.module)}
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return found & names.keys()


def _cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Modules that reach themselves, in groups that reach each other."""
    reach = {name: _reached(graph, name) for name in graph}
    groups = {frozenset({other for other in reach[name] if name in reach[other]}) for name in graph}
    return sorted(sorted(group) for group in groups if group)


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found
