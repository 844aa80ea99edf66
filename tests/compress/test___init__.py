"""What `from compress import ...` gives: the stated names, from their modules, each on its first use."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import compress

ROOT = Path(compress.__file__).parent


def test_the_stated_names_are_the_table_s_and_the_type_checker_s() -> None:
    assert sorted(compress.__all__) == sorted(set(compress.__all__)) == sorted(compress._HOMES)
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == {name: (home, compress._RENAMED.get(name, name)) for name, home in compress._HOMES.items()}


@pytest.mark.parametrize("name", compress.__all__)
def test_every_stated_name_is_there(name: str) -> None:
    found = getattr(compress, name)
    module = importlib.import_module(compress._HOMES[name])
    assert found is getattr(module, compress._RENAMED.get(name, name))
    assert found.__doc__
    assert name in dir(compress)


def test_an_unknown_name_is_an_attribute_error_and_modules_are_still_found() -> None:
    with pytest.raises(AttributeError, match="module 'compress' has no attribute 'thing'"):
        compress.thing  # noqa: B018
    from compress import errors

    assert errors.UserError is compress.UserError


def test_nothing_is_imported_before_it_is_used() -> None:
    code = "import sys, compress; assert compress.__version__; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    loaded = set(done.stdout.split())
    assert "compress" in loaded
    assert not loaded & {"torch", "numpy", "pydantic", "yaml"}
    assert not [name for name in loaded if name.startswith("compress.")]


def test_modules_never_import_the_package_root() -> None:
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert "compress" not in names, f"{path} imports the package root"


def test_a_pruner_of_another_project_is_registered_and_named_by_a_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(compress.PRUNERS, "_classes", dict(compress.PRUNERS._classes))

    @compress.PRUNERS.register
    class FirstRowPruner(compress.Pruner):
        """Switches the first row of each weight off."""

        def __init__(self, weights: list[str]) -> None:
            self.weights = weights

        def masks(
            self, weights: Mapping[str, torch.Tensor], ctx: compress.StepContext, window: compress.EpochWindow
        ) -> dict[str, torch.Tensor]:
            return {
                name: torch.arange(len(weights[name])).ge(1).view(-1, 1).expand_as(weights[name])
                for name in self.weights
            }

    model = torch.nn.Linear(3, 4)
    schedule = {
        "pruners": {"own": {"class": "FirstRowPruner", "weights": ["weight"]}},
        "policies": [{"pruner": {"instance_name": "own"}, "epochs": [0]}],
    }
    scheduler = compress.dict_config(model, torch.optim.SGD(model.parameters(), 0.1), schedule)
    scheduler.on_epoch_begin(0)
    scheduler.on_minibatch_begin(0, 0, 1)
    assert model.weight[0].tolist() == [0, 0, 0]
    assert bool((model.weight[1:] != 0).all())
