"""What a schedule costs per training step, and what other tools take for the same masks.

    python benchmarks/step_overhead.py [--rounds 15] [--steps 4] [--threads 2] [--only TEXT]

All loops of a row group run in this process and take turns in short rounds, so that a machine that slows down slows
all. Printed is the ratio to the bare loop of the same round: minimum, median, maximum; and the time inside the hooks
alone as a part of the step, median, which the noise of the rest does not reach. "AGP" rows mask 40 % of every
convolution; `torch.nn.utils.prune` and `torch.ao.pruning` get the same masks. The last rows time AGP's
`on_epoch_begin` over all convolutions of ResNet-50 against numpy's partition of each weight. Quantizers:
`benchmarks/qat_step.py`.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.interleaved import compare, options_of
from benchmarks.networks import resnet20
from compress.config import dict_config
from compress.criteria import level_mask
from compress.scheduler import CompressionScheduler
from models.C2SRCNN.model import Net

Batch = tuple[Tensor, Tensor]
EPOCHS = {"starting_epoch": 0, "ending_epoch": 2, "frequency": 1}
LEVEL = 0.4


class Loop:
    """One network with its optimizer, trained on one fixed batch; each call is one step."""

    def __init__(self, model: nn.Module, batch: Batch, loss: Callable[..., Tensor]) -> None:
        self.model, self.batch, self.loss = model, batch, loss
        self.optimizer = torch.optim.Adam(model.parameters(), 1e-4)

    def __call__(self) -> None:
        """One bare step."""
        loss = self.loss(self.model(self.batch[0]), self.batch[1])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


class Scheduled(Loop):
    """The same with a schedule's six hooks, in the middle of epoch 1; traced with `example` where that is given."""

    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        loss: Callable[..., Tensor],
        schedule: dict[str, Any],
        example: Tensor | None = None,
    ) -> None:
        super().__init__(model, batch, loss)
        self.scheduler: CompressionScheduler = dict_config(model, self.optimizer, schedule, example)
        self.scheduler.on_epoch_begin(1, self.optimizer)
        self.count = 0
        self.inside: list[float] = []  # seconds in the hooks of each step

    def __call__(self) -> None:
        """One step under the schedule."""
        scheduler, optimizer, moment = self.scheduler, self.optimizer, (1, self.count + 1, 10**6)
        self.count += 1
        self.inside.append(0.0)
        self._hook(scheduler.on_minibatch_begin, *moment, optimizer)
        loss = self.loss(self.model(self.batch[0]), self.batch[1])
        loss = self._hook(scheduler.before_backward_pass, *moment, loss, optimizer)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._hook(scheduler.before_parameter_optimization, *moment, optimizer)
        optimizer.step()
        self._hook(scheduler.on_minibatch_end, *moment, optimizer)

    def _hook(self, hook: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        answer = hook(*arguments)
        self.inside[-1] += time.perf_counter() - started
        return answer


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Every convolution by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


def schedules(model: nn.Module) -> dict[str, dict[str, Any]]:
    """One schedule for each family, over every convolution of the network."""
    weights = [f"{name}.weight" for name in convolutions(model)]
    wide = [name for name in weights if model.get_parameter(name).shape[1] % 4 == 0]
    agp = {"class": "AutomatedGradualPruner", "initial_sparsity": 0.05, "final_sparsity": LEVEL, "weights": weights}
    filters = {"class": "L1RankedStructureParameterPruner", "desired_sparsity": LEVEL, "weights": weights}
    movement = {"class": "MovementPruner", "desired_sparsity": LEVEL, "weights": weights}
    two_of_four = {"class": "NMPruner", "weights": wide}
    lasso = {"class": "GroupLassoRegularizer", "reg_regims": {name: [1e-4, "Filters"] for name in weights}}
    l1 = {"class": "L1Regularizer", "reg_regims": dict.fromkeys(weights, 1e-5)}
    doubles = {"use_double_copies": True, "mask_on_forward_only": True}
    return {
        "AGP": one("pruner", agp),
        "filters": one("pruner", filters),
        "2:4": one("pruner", two_of_four),
        "movement, double copies": one("pruner", movement, doubles),
        "group lasso + L1": {
            "regularizers": {"lasso": lasso, "l1": l1},
            "policies": [{"regularizer": {"instance_name": name}, **EPOCHS} for name in ("lasso", "l1")],
        },
    }


def one(kind: str, instance: dict[str, Any], args: dict[str, Any] | None = None) -> dict[str, Any]:
    """A schedule with one instance."""
    policy = {kind: {"instance_name": "it", "args": args or {}}, **EPOCHS}
    return {f"{kind}s": {"it": instance}, "policies": [policy]}


def others(make: Callable[[], nn.Module], batch: Batch, loss: Callable[..., Tensor]) -> dict[str, Loop]:
    """The same masks by other tools, where they are installed."""
    found: dict[str, Loop] = {}
    model = make()
    for module in convolutions(model).values():
        prune.l1_unstructured(module, "weight", LEVEL)
    found["torch.nn.utils.prune"] = Loop(model, batch, loss)
    try:
        from torch.ao.pruning import BaseSparsifier
    except ImportError:
        return found

    class LevelSparsifier(BaseSparsifier):  # its own WeightNormSparsifier cannot make 1 x 1 blocks of some shapes
        def update_mask(self, module: nn.Module, tensor_name: str, **_: Any) -> None:
            parametrization = module.parametrizations[tensor_name]
            parametrization[0].mask.data = level_mask(parametrization.original, LEVEL).float()

    model = make()
    sparsifier = LevelSparsifier()
    sparsifier.prepare(model, [{"tensor_fqn": f"{name}.weight"} for name in convolutions(model)])
    sparsifier.step()
    found["torch.ao.pruning"] = Loop(model, batch, loss)
    return found


def step_rows(
    name: str, make: Callable[[], nn.Module], batch: Batch, loss: Callable[..., Tensor], options: Any
) -> None:
    """Prints a row for each family and each other tool."""
    torch.manual_seed(0)
    ways: dict[str, Loop] = {"bare": Loop(make(), batch, loss)}
    for family, schedule in schedules(make()).items():
        ways[family] = Scheduled(make(), batch, loss, schedule)
    ways.update(others(make, batch, loss))
    chosen = {key: way for key, way in ways.items() if key == "bare" or options.only in key}
    for key, ratios in compare(chosen, options.rounds, options.steps).items():
        way = chosen[key]
        share = 1000 * statistics.median(way.inside) / ratios.milliseconds if isinstance(way, Scheduled) else 0.0
        alone = f"   hooks alone {share:.1%}" if share else ""
        print(f"{name:10s} {key:26s} {ratios.milliseconds:8.1f} ms/step   ratio to bare: {ratios}{alone}", flush=True)


def epoch_rows(options: Any) -> None:
    """Prints AGP's `on_epoch_begin` over all convolutions of ResNet-50 beside numpy's partition of each weight."""
    from torchvision.models import resnet50

    model = resnet50(weights=None)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = dict_config(model, optimizer, schedules(model)["AGP"])
    arrays = [module.weight.detach().abs().reshape(-1).numpy() for module in convolutions(model).values()]

    def partition() -> None:
        for array in arrays:
            np.partition(array, int(LEVEL * array.size))

    ways = {"numpy.partition": partition, "AGP on_epoch_begin": lambda: scheduler.on_epoch_begin(1, optimizer)}
    for key, ratios in compare(ways, options.rounds, 1).items():
        print(f"{'ResNet-50':10s} {key:26s} {ratios.milliseconds:8.1f} ms        ratio to numpy: {ratios}", flush=True)


def main() -> None:
    """Prints every row."""
    options = options_of(__doc__)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images = (torch.rand(8, 3, 32, 32), torch.rand(8, 3, 64, 64))
    step_rows("C2SRCNN", lambda: Net(2), images, functional.l1_loss, options)
    labelled = (torch.rand(64, 3, 32, 32), torch.randint(10, (64,)))
    step_rows("ResNet-20", resnet20, labelled, functional.cross_entropy, options)
    epoch_rows(options)


if __name__ == "__main__":
    main()
