"""How the sources are built: python benchmarks/structure.py [--mypy]

Read from the files with `ast`, nothing is imported: lines of functions, cycles between modules (imports for type
checking count), tests that mirror a module by name, public names without a docstring, modules of each folder, lines
of comments, repeated code, and with `--mypy` what mypy finds in all packages.
"""

import argparse
import ast
import io
import statistics
import subprocess
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("compress", "engine", "models", "data", "options", "apputils")
MOST_MODULES = 15  # in a folder
WINDOW = 6  # lines that two places share before they count as repeated
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> dict[str, Path]:
    """Module name -> file, of every package."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def function_lengths(trees: dict[str, ast.Module]) -> list[int]:
    """Lines of every function, without its docstring."""
    lengths = []
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lengths.append(body[-1].end_lineno - body[0].lineno + 1 if body else 0)  # type: ignore[operator]
    return lengths


def imports(tree: ast.Module, modules: dict[str, Path]) -> set[str]:
    """Modules of ours that are imported at a module's level, for type checking too."""
    found = set()
    for node in _at_module_level(tree):
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = [
                f"{node.module}.{name}" if f"{node.module}.{name}" in modules else str(node.module) for name in names
            ]
        found |= {name for name in names if name in modules}
    return found


def _at_module_level(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from _at_module_level(node)


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or not (strongly connected components, Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            component = stack[at:]
            del stack[at:]
            if len(component) > 1:
                found.append(sorted(component))

    sys.setrecursionlimit(10_000)
    for name in graph:
        if name not in index:
            visit(name)
    return found


def mirrored() -> tuple[int, int]:
    """Tests files that stand where the module of their name stands, and all test files of the packages."""
    own = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if path.relative_to(ROOT).parts[1] in PACKAGES]
    at = [ROOT / path.relative_to(ROOT / "tests").parent / path.name.removeprefix("test_") for path in own]
    return sum(path.exists() for path in at), len(own)


def undocumented(trees: dict[str, ast.Module]) -> tuple[list[str], int]:
    """Public classes, functions and methods without a docstring, and how many there are in all."""
    missing, count = [], 0
    for module, tree in trees.items():
        for node in _public(tree):
            members = _public(node) if isinstance(node, ast.ClassDef) else ()
            for each, name in ((node, node.name), *((member, f"{node.name}.{member.name}") for member in members)):
                count += 1
                if not ast.get_docstring(each) and each.name != "forward":
                    missing.append(f"{module}.{name}")
    return missing, count


def _public(node: ast.Module | ast.ClassDef) -> Iterator[ast.ClassDef | Function]:
    for child in node.body:
        if isinstance(child, ast.ClassDef | Function) and not child.name.startswith("_"):
            yield child


def folders() -> dict[str, int]:
    """Folder -> modules in it."""
    count: dict[str, int] = defaultdict(int)
    for path in sources().values():
        count[str(path.parent.relative_to(ROOT))] += 1
    return count


def comment_share(paths: list[Path]) -> float:
    """Lines that hold a comment, as a fraction of lines that are not empty."""
    lines = comments = 0
    for path in paths:
        text = path.read_text(encoding="utf-8")
        lines += sum(bool(line.strip()) for line in text.splitlines())
        comments += len(
            {t.start[0] for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT}
        )
    return comments / lines


def repeated(paths: list[Path]) -> int:
    """Pairs of places that share six lines or more: code only, spaces aside; a longer run counts once."""
    seen: dict[tuple[str, ...], tuple[int, int]] = {}
    pairs = 0
    for number, path in enumerate(paths):
        lines = [(i, line.strip()) for i, line in enumerate(path.read_text(encoding="utf-8").splitlines())]
        code = [line for _, line in lines if line and not line.startswith(("#", "import ", "from ", '"""'))]
        last = (-1, -1, -1)  # the file and the distance of the pair under way, and where it was
        for at in range(len(code) - WINDOW + 1):
            key = tuple(code[at : at + WINDOW])
            if sum(len(line) for line in key) < 120:  # brackets and the like
                continue
            if key in seen:
                other, where = seen[key]
                if (other, at - where) != last[:2] or at > last[2] + 1:
                    pairs += 1
                last = (other, at - where, at)
            else:
                seen[key] = (number, at)
    return pairs


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mypy", action="store_true", help="run mypy over all packages too (about a minute)")
    given = parser.parse_args()
    modules = sources()
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in modules.items()}
    lengths = function_lengths(trees)
    found = cycles({name: imports(tree, modules) for name, tree in trees.items()})
    good, tests = mirrored()
    missing, public = undocumented(trees)
    full = {name: count for name, count in folders().items() if count > MOST_MODULES}
    size = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules.items()}
    print(f"modules: {len(modules)}, lines: {sum(size.values()):,}, longer than 400: {_named(size, 400)}")
    print(f"functions: {len(lengths):,}; lines: median {statistics.median(lengths):.0f}, 95th percentile "
          f"{statistics.quantiles(lengths, n=20)[-1]:.0f}, longest {max(lengths)}")  # fmt: skip
    print(f"cycles between modules: {len(found)}" + "".join(f"\n  {' '.join(each)}" for each in found))
    print(f"folders of more than {MOST_MODULES} modules: {full or 'none'}")
    print(f"tests that mirror a module: {good} of {tests} ({100 * good / tests:.0f} %)")
    print(
        f"public names without a docstring: {len(missing)} of {public:,}" + "".join(f"\n  {each}" for each in missing)
    )
    print(f"lines with a comment: {100 * comment_share(list(modules.values())):.1f} %")
    print(f"pairs of places that share {WINDOW} lines or more: {repeated([*modules.values(), *_tests()])}")
    if given.mypy:
        print(
            subprocess.run([sys.executable, "-m", "mypy", *PACKAGES], cwd=ROOT, capture_output=True, text=True).stdout
        )


def _tests() -> list[Path]:
    return sorted((ROOT / "tests").rglob("*.py")) + sorted((ROOT / "benchmarks").glob("*.py"))


def _named(size: dict[str, int], most: int) -> str:
    return ", ".join(f"{name} {lines}" for name, lines in size.items() if lines > most) or "none"


if __name__ == "__main__":
    main()
