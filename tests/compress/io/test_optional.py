"""Optional packages: nothing is imported before use, what is missing is named."""

import subprocess
import sys
from pathlib import Path

import pytest

from compress.errors import UserError
from compress.io.optional import EXTRAS, MissingPackageError, needed, on_use, require

ROOT = Path(__file__).resolve().parents[3]
OPTIONAL = [package for packages in EXTRAS.values() for package in packages]
WITHOUT = f"""
import sys
from pathlib import Path
for package in {OPTIONAL}:
    sys.modules[package] = None  # an import of it fails from now on
import compress
from compress import *
import torch
from compress.plan import Plan
net, x = torch.nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)
for call in (
    lambda: compress.export_onnx(net, "a.onnx", x),
    lambda: compress.transform_to_onnx(net, "a.onnx", x, False),
    lambda: compress.onnx_way("a.onnx", (x,)),
    lambda: compress.sensitivity_analysis(net, "a.xlsx", lambda model: 0.0),
    lambda: compress.sparsity_display(net, "a.xlsx"),
    lambda: compress.macs_display(net, "a.xlsx", x),
    lambda: compress.macs_table(net, x),
    lambda: compress.draw_model_to_file(net, "a.png", x),
    lambda: compress.draw_plan(Plan(()), "a.png"),
):
    try:
        call()
    except compress.MissingPackageError as e:
        print(e)
assert compress.export_pt2(net, "a.pt2", x).difference.max == 0
assert compress.count_macs(net, x).total == 36 * 3 * 4 * 9
left = sorted(path.name for path in Path().iterdir())
assert left == ["a.pt2"], left
"""


def test_without_the_optional_packages_everything_imports_and_says_what_it_requires(tmp_path: Path) -> None:
    """Blocked in a new process, as in an environment that has only the declared dependencies."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    tables = "pandas, openpyxl and matplotlib, which cannot be imported: pip install pandas openpyxl matplotlib"
    onnx = "onnx, onnxscript and onnxruntime, which cannot be imported: pip install onnx onnxscript onnxruntime"
    assert done.stdout.splitlines() == [
        f"export_onnx requires {onnx}",
        f"transform_to_onnx requires {onnx}",
        "running an ONNX file requires onnxruntime, which cannot be imported: pip install onnxruntime",
        "sensitivity_analysis requires pandas, openpyxl, matplotlib and tqdm, which cannot be imported: "
        "pip install pandas openpyxl matplotlib tqdm",
        f"sparsity_display requires {tables}",
        f"macs_display requires {tables}",
        "this analysis requires pandas, which cannot be imported: pip install pandas",
        "draw_model_to_file requires pandas and pygraphviz, which cannot be imported: pip install pandas pygraphviz",
        "draw_plan requires matplotlib, which cannot be imported: pip install matplotlib",
    ]


def test_the_installed_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1")
    monkeypatch.setattr("importlib.import_module", lambda name: (_ for _ in ()).throw(ModuleNotFoundError(name)))
    with pytest.raises(UserError, match=r"requires onnx, .*: pip install 'compress-bench\[export\]'$"):
        require("the test", "onnx")


def test_a_package_in_no_extra_is_named_by_itself() -> None:
    with pytest.raises(UserError, match=r"^the test requires no_such, which cannot be imported: pip install no_such$"):
        require("the test", "math", "no_such.part")


def test_a_package_that_is_there_but_broken_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_package.py").write_text("raise ImportError('libfoo.so: cannot open')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match=r"requires broken_package, which cannot be imported \(libfoo.so"):
        needed("broken_package", "the test")


def test_a_stand_in_is_the_module_once_it_is_used() -> None:
    lazy = on_use("colorsys")
    assert lazy.rgb_to_hsv(1.0, 0.0, 0.0) == (0.0, 1.0, 1.0)
    with pytest.raises(AttributeError):
        lazy.no_such_name  # noqa: B018
    with pytest.raises(MissingPackageError, match="this analysis requires no_such"):
        on_use("no_such").anything  # noqa: B018
