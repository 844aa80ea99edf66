"""Graphs of networks whose hooks and closures change what a pass computes: as the plain loop, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.modules.module as global_hooks
from torch import Tensor, nn
from torch.nn import functional

from compress.analysis.sensitivity.analysis import sensitivity_analysis
from compress.analysis.sensitivity.evaluation import Evaluation


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).eval()


def replaces(module: nn.Module, inputs: Any) -> None:
    module.weight = nn.Parameter(module.weight.detach().clone())


def clamps(module: nn.Module, inputs: Any) -> None:
    with torch.no_grad():
        module.weight.clamp_(-10, 10)


def keeps_a_norm(module: nn.Module, inputs: Any) -> tuple[Tensor, ...]:
    if not hasattr(module, "norm_kept"):
        module.norm_kept = module.weight.detach().norm()
    return (inputs[0] * module.norm_kept,)


class Keeping:
    """A hook that is an object, with a number that it takes at its first call."""

    def __init__(self) -> None:
        self.size: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if self.size is None:
            self.size = output.detach().abs().mean()
        return output / self.size

    def hook(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return self(module, inputs, output)


def closure() -> Callable[..., Tensor]:
    size: Tensor | None = None

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        nonlocal size
        if size is None:
            size = output.detach().abs().mean()
        return output / size

    return hook


HOOKS: dict[str, Callable[[nn.Sequential], Any]] = {
    "replaced": lambda net: net[2].register_forward_pre_hook(replaces),
    "clamped": lambda net: net[2].register_forward_pre_hook(clamps),
    "norm": lambda net: net[2].register_forward_pre_hook(keeps_a_norm),
    "object": lambda net: net[2].register_forward_hook(Keeping()),
    "method": lambda net: net[2].register_forward_hook(Keeping().hook),
    "closure": lambda net: net[2].register_forward_hook(closure()),
    "everywhere": lambda net: global_hooks.register_module_forward_hook(
        lambda module, _, output: output * 2 if isinstance(module, nn.Linear) else None
    ),
    "kept everywhere": lambda net: global_hooks.register_module_forward_hook(closure()),
    "replaced everywhere": lambda net: global_hooks.register_module_forward_pre_hook(
        lambda module, inputs: replaces(module, inputs) if isinstance(module, nn.Linear) else None
    ),
}


class Beside(nn.Module):
    """A weight that its layer has, and that the code reads from somewhere else."""

    def __init__(self, kept: str) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        own = self.layer.weight
        self.kept = [{"parameter": own, "data": own.data, "rows": own.data[:4], "copy": own.data.clone()}[kept]]

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.last(self.layer(x) + functional.linear(x, self.kept[0]).sum(-1, keepdim=True))


@pytest.mark.parametrize("kept", ["parameter", "data", "rows", "copy"])
def test_a_weight_under_another_name_changes_too(kept: str, tmp_path: Path) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return Beside(kept).eval()

    compare(make, lambda model: None, tmp_path)


@pytest.mark.parametrize("name", HOOKS)
def test_with_hooks_the_numbers_are_those_of_the_plain_loop(name: str, tmp_path: Path) -> None:
    compare(network, HOOKS[name], tmp_path)


def compare(make: Callable[[], nn.Module], hooked: Callable[[Any], Any], folder: Path) -> None:
    inputs = [torch.rand(3, 4, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    evaluation = Evaluation(inputs, lambda outputs: {"size": sum(float(each.square().mean()) for each in outputs)})
    tables = []
    for name, function in (("fast", evaluation), ("plain", lambda model: evaluation(model))):
        model = make()
        handle = hooked(model)
        try:
            tables.append(sensitivity_analysis(model, folder / f"{name}.xlsx", function, "element", [0.3, 0.8]))
        finally:
            if handle is not None:
                handle.remove()
    given, wanted = tables
    assert list(given["size"]) == pytest.approx(list(wanted["size"]), rel=1e-5)
    assert given["size"].nunique() > 4
