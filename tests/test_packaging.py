"""The installed library: what it imports is declared, what the wheel holds is enough."""

import ast
import importlib.metadata as metadata
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import compress
from compress.io.optional import DISTRIBUTION, EXTRAS

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORTED_AS = {"pyyaml": "yaml", "onnx-ir": "onnx_ir"}
HOSTS = {  # adapters of packages that are there whenever the adapter is asked for
    "compress/integrations/lightning.py": {"lightning", "pytorch_lightning"},
    "compress/integrations/transformers.py": {"transformers"},
    "compress/thinning/attention/torchvision.py": {"torchvision"},
    "compress/export/runtimes/openvino.py": {"openvino"},
    "compress/export/runtimes/executorch.py": {"executorch"},
    "compress/export/runtimes/litert.py": {"ai_edge_litert", "litert_torch"},
    "compress/export/layer_times.py": {"openvino"},
    "compress/export/runtimes/ncnn.py": {"ncnn", "pnnx"},
    "compress/export/runtimes/coreml.py": {"coremltools"},
}


def packages(requirements: list[str]) -> set[str]:
    """What a list of requirements lets one import."""
    return {IMPORTED_AS.get(name, name) for name in (Requirement(line).name for line in requirements)}


DECLARED = packages(PROJECT["dependencies"])
OF_EXTRAS = {name: packages(lines) for name, lines in PROJECT["optional-dependencies"].items() if name != "all"}


def imports(tree: ast.AST, *, deep: bool) -> Iterator[str]:
    """Top-level packages that a module imports when it is imported (`deep`: or later); typing's are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from (name for part in node.orelse for name in imports(part, deep=deep))
        elif deep or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(node, deep=deep)


def foreign(path: Path) -> tuple[set[str], set[str]]:
    """Packages neither Python's nor ours nor the adapter's host: imported with the module; imported then or later."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    known = {*sys.stdlib_module_names, "compress", *HOSTS.get(path.relative_to(ROOT).as_posix(), ())}
    return set(imports(tree, deep=False)) - known, set(imports(tree, deep=True)) - known


def test_what_modules_import_is_declared() -> None:
    seen = set()
    for path in sorted((ROOT / "compress").rglob("*.py")):
        at_once, ever = foreign(path)
        seen |= at_once
        assert at_once <= DECLARED, f"{path} imports {at_once - DECLARED} when it is imported"
        room = path.relative_to(ROOT / "compress").parts[0]
        later = ever - DECLARED - OF_EXTRAS.get(room, set())
        assert not later, f"{path} imports {later}, which no extra of {room} declares"
    assert seen == DECLARED, f"declared and never imported: {DECLARED - seen}"


def test_the_extras_are_those_that_messages_name() -> None:
    assert {name: set(packages) for name, packages in EXTRAS.items()} == OF_EXTRAS
    assert PROJECT["optional-dependencies"]["all"] == [f"{DISTRIBUTION}[{','.join(EXTRAS)}]"]
    assert PROJECT["name"] == DISTRIBUTION


def test_the_versions_installed_by_the_requirements_satisfy_what_is_declared() -> None:
    pinned = {
        Requirement(line).name.lower(): Requirement(line)
        for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith(("#", "-"))
    }
    for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["export"],
                 *PROJECT["optional-dependencies"]["analysis"]]:  # fmt: skip
        wanted = Requirement(line)
        (exact,) = pinned[wanted.name.lower()].specifier
        assert wanted.specifier.contains(exact.version), f"{line} and requirements.txt's {exact}"


# The wheel ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built out of a copy of what git tracks, without the network."""
    pytest.importorskip("setuptools", "77", reason="requirements-dev.txt has it")
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for part in ("pyproject.toml", "compress", "README.md"):
        subprocess.run(["cp", "-r", str(ROOT / part), str(source / part)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(built)]
    subprocess.run([*command, str(source)], check=True)
    (path,) = built.glob("*.whl")
    return path


def with_requirements(names: list[str]) -> set[str]:
    """Distributions and, recursively, what they require here."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop().lower().replace("_", "-")
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            wanted = [Requirement(line) for line in requirements]
            todo += [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def environment(folder: Path, wheel: Path, requirements: list[str]) -> Path:
    """Python of a new virtual environment: the wheel, and of the packages of here only those that are asked for."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True)
    linked = folder / "linked"
    linked.mkdir()
    for name in with_requirements([Requirement(line).name for line in requirements]):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            target = Path(str(distribution.locate_file(top)))
            if not (linked / top).exists():
                os.symlink(target, linked / top)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "linked.pth").write_text(f"{linked}\n")
    return python


SMALLEST = """
import importlib.util, os, sys
import compress
assert "site-packages" in compress.__file__, compress.__file__
from compress import *
for name in compress.__all__:
    getattr(compress, name)
assert not any(importlib.util.find_spec(name) for name in ("onnx", "pandas", "matplotlib", "engine", "apputils"))
import torch
from compress.config.templates.new_schedule import families, new_schedule
from compress.config.__main__ import main
net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
with open("new.yaml", "w") as file:
    file.write(new_schedule("agp", net, "python train.py"))
scheduler = compress.file_config(net, torch.optim.SGD(net.parameters(), 0.1), "new.yaml")
assert scheduler.preview().rows and "pandas" not in sys.modules
place = importlib.util.find_spec("compress").submodule_search_locations[0]
assert os.path.isfile(place + "/py.typed") and os.path.isfile(place + "/quantization/native/passes.c")
"""
LARGEST = """
import compress, torch
net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
x = torch.rand(2, 3, 8, 8)
assert compress.export_onnx(net, "net.onnx", x).difference.max < 1e-5
assert compress.sparsity_display(net, "zeros.xlsx").total["zeros"] == 0
assert compress.macs_display(net, "macs.xlsx", x).total["macs"] > 0
compress.draw_model_to_file(net, "net.png", x)
table = compress.sensitivity_analysis(net, "sense.xlsx", lambda model: float(model(x).detach().mean()), levels=[0.5])
assert set(table["weight"]) == {"0.weight", "2.weight"}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("requirements", "code"),
    [
        pytest.param(PROJECT["dependencies"], SMALLEST, id="dependencies"),
        pytest.param(
            [*PROJECT["dependencies"], *(line for name in EXTRAS for line in PROJECT["optional-dependencies"][name])],
            LARGEST,
            id="all",
        ),
    ],
)
def test_the_wheel_works_with_what_it_declares(requirements: list[str], code: str, wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path, wheel, requirements)
    clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = subprocess.run(
        [python.parent / "compress-schedule", "show", "AutomatedGradualPruner"],
        cwd=tmp_path, env=clean, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert "final_sparsity" in shown.stdout


def test_the_version_is_stated_once() -> None:
    assert compress.__version__.count(".") == 2
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
