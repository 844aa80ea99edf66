"""What `--accumulate`, `--amp`, `--compile` and `--channels-last` do to the time of a training step.

    python benchmarks/step_options.py [--rounds 15] [--steps 4] [--threads 2] [--only TEXT]

The steps are the training loop's own parts (engine/distributed/data_parallel.py, engine/epoch/accumulation.py) around
one fixed batch, without a schedule; all of them see the same samples. All ways run in this process and take turns in
short rounds, so that a machine that slows down slows all. Printed is the time of an update and its ratio to the plain
one's in the same round. C2SRCNN is trained with its channels last anyway: its plain step is, and `channels first`
shows the difference.
"""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.interleaved import compare, options_of
from benchmarks.networks import resnet20
from engine.distributed.data_parallel import Replicas
from engine.epoch.accumulation import mean_loss
from models.C2SRCNN.model import Net

Batch = tuple[Tensor, Tensor]
PARTS = 4  # of --accumulate


class Update:
    """One update of the weights, on one fixed batch."""

    def __init__(
        self, model: nn.Module, batch: Batch, loss: Callable[..., Tensor], *, parts: int = 1, amp: bool = False,
        compiled: bool = False, layout: torch.memory_format = torch.contiguous_format,
    ) -> None:  # fmt: skip
        self.model = model.to(memory_format=layout)
        self.loss, self.amp = loss, amp
        pieces = zip(batch[0].chunk(parts), batch[1].chunk(parts), strict=True)
        self.group = [(x.contiguous(memory_format=layout), y) for x, y in pieces]
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-4)
        self.replicas = Replicas(self.model, torch.compile(self.model) if compiled else self.model)

    def __call__(self) -> None:
        """The update."""
        self.optimizer.zero_grad(set_to_none=True)
        mean_loss(self.group, self._loss_of, contextlib.nullcontext).backward()
        self.replicas.settle()
        self.optimizer.step()

    def _loss_of(self, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.amp):
            return self.loss(self.replicas(batch[0]), batch[1])


def ways(make: Callable[[], nn.Module], batch: Batch, loss: Callable[..., Tensor], last: bool) -> dict[str, Update]:
    """Every option by itself; `last` for a network whose plain step has its channels last."""
    layouts = (torch.channels_last, torch.contiguous_format)
    plain, other = layouts if last else layouts[::-1]
    return {
        "plain": Update(make(), batch, loss, layout=plain),
        f"--accumulate={PARTS}": Update(make(), batch, loss, layout=plain, parts=PARTS),
        "--amp": Update(make(), batch, loss, layout=plain, amp=True),
        "--compile": Update(make(), batch, loss, layout=plain, compiled=True),
        "channels first" if last else "--channels-last": Update(make(), batch, loss, layout=other),
    }


def rows(name: str, found: dict[str, Update], options: object) -> None:
    """Prints a row for each way."""
    only = options.only  # type: ignore[attr-defined]
    chosen = {key: way for key, way in found.items() if key == "plain" or only in key}
    for key, ratios in compare(chosen, options.rounds, options.steps).items():  # type: ignore[attr-defined]
        print(f"{name:10s} {key:18s} {ratios.milliseconds:8.1f} ms/update   ratio to plain: {ratios}", flush=True)


def main() -> None:
    """Both networks."""
    options = options_of(__doc__)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images = (torch.randn(64, 3, 32, 32), torch.randint(10, (64,)))
    crops = (torch.rand(8, 3, 32, 32), torch.rand(8, 3, 64, 64))
    rows("ResNet-20", ways(resnet20, images, functional.cross_entropy, last=False), options)
    rows("C2SRCNN", ways(lambda: Net(2), crops, functional.l1_loss, last=True), options)


if __name__ == "__main__":
    main()
