"""Communication against compute for 1 to 1,024 workers, from what one worker measures here: a model, not a measurement.

    python benchmarks/scaling_model.py [--network ResNet-20] [--batch 64] [--step-ms X --gradient-mb X]
        [--small-messages X] [--bandwidth-gbit 25] [--latency-us 20] [--overlap 0.5] [--machine-workers 8]
        [--inner-gbit 2400]

Measured: the time of a training step of one worker (forward, backward, update; median) and the bytes of its
gradients; `--step-ms` and `--gradient-mb` give numbers measured elsewhere, such as on a GPU. Given: the network.

The model is a ring all-reduce (Patarasuk and Yuan 2009, Journal of Parallel and Distributed Computing 69): of n
machines each sends and receives 2 (n - 1) / n of the gradients in 2 (n - 1) messages,

    all-reduce(n) = 2 (n - 1) / n x bytes / bandwidth + 2 (n - 1) x latency

and within a machine its workers do the same at the inner bandwidth first (`--machine-workers`). Of that, `overlap` of
the step's time can hide, while the backward pass still runs. A step sends small messages too, each an all-reduce of a
few bytes that is waited for and takes 2 (n - 1) x latency: one with the running statistics of BatchNorms, where there
are any, and one that tells whether a loss is not finite and whether a signal came, which on CUDA goes out only every
50 steps (`--small-messages` is their number in a step):

    step(n) = compute + small messages x 2 (n - 1) x latency + max(0, all-reduce - overlap x compute)

The global batch grows with the workers (weak scaling), so the efficiency is compute / step(n).

What the model leaves out: that DistributedDataParallel sends gradients in several messages of 25 MB, and a GAN those
of its discriminator after each of its updates; workers that wait for the slowest, reading data, tree all-reduces
(which NCCL takes for small messages; they grow with log n where the ring grows with n), switches that are shared with
others.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.networks import resnet20
from models.C2SRCNN.model import Net

SMALL_MESSAGES = {"ResNet-20": 2.0, "C2SRCNN": 1.0}  # in a step between CPUs; C2SRCNN has no BatchNorm
WORKERS = tuple(2**i for i in range(11))  # 1 to 1,024


class Network(NamedTuple):
    """What connects the workers.

    Attributes:
        bandwidth: of a machine, bytes a second.
        latency: of a message between machines, seconds.
        overlap: share of the compute time that communication can hide behind, [0, 1].
        machine_workers: workers of a machine.
        inner_bandwidth: between workers of a machine, bytes a second.
        small_messages: all-reduces of a few bytes in a step, which are waited for.
    """

    bandwidth: float
    latency: float
    overlap: float
    machine_workers: int
    inner_bandwidth: float
    small_messages: float = 0.0


class Row(NamedTuple):
    """One number of workers.

    Attributes:
        workers: how many.
        communication: seconds of the all-reduce of the gradients.
        step: seconds of a step.
        efficiency: compute over step, (0, 1].
    """

    workers: int
    communication: float
    step: float
    efficiency: float


def ring(participants: int, size: float, bandwidth: float, latency: float) -> float:
    """Seconds of a ring all-reduce of `size` bytes.

    >>> ring(4, 100.0, 100.0, 0.5)
    4.5
    """
    return 2 * (participants - 1) / participants * size / bandwidth + 2 * (participants - 1) * latency


def model(compute: float, size: float, network: Network, workers: int) -> Row:
    """A step of so many workers.

    Args:
        compute: seconds of one worker's step.
        size: bytes of the gradients.
    """
    inside = min(workers, network.machine_workers)
    machines = -(-workers // network.machine_workers)
    communication = ring(inside, size, network.inner_bandwidth, 0.0)
    communication += ring(machines, size, network.bandwidth, network.latency)
    waited = network.small_messages * ring(machines, 0.0, network.bandwidth, network.latency)
    step = compute + waited + max(0.0, communication - network.overlap * compute)
    return Row(workers, communication, step, compute / step)


def measured(name: str, batch: int, repetitions: int = 9) -> tuple[float, float]:
    """Seconds of a step on this machine (median) and bytes of the gradients."""
    make, loss, data = NETWORKS[name]
    net, (inputs, targets) = make(), data(batch)
    optimizer = torch.optim.Adam(net.parameters(), 1e-4)
    seconds = []
    for _ in range(repetitions + 2):
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss(net(inputs), targets).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    size = sum(each.numel() * each.element_size() for each in net.parameters() if each.grad is not None)
    return statistics.median(seconds[2:]), float(size)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Tensor], Callable[[int], tuple[Tensor, Tensor]]]] = {
    "ResNet-20": (
        resnet20,
        functional.cross_entropy,
        lambda batch: (torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))),
    ),
    "C2SRCNN": (
        lambda: Net(2),
        functional.l1_loss,
        lambda batch: (torch.rand(batch, 3, 32, 32), torch.rand(batch, 3, 64, 64)),
    ),
}


def main() -> None:
    """Measures unless told, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="ResNet-20", choices=tuple(NETWORKS))
    parser.add_argument("--batch", type=int, default=64, help="samples of one worker")
    parser.add_argument("--threads", type=int, default=1, help="of this worker")
    parser.add_argument("--step-ms", type=float, help="instead of measuring it")
    parser.add_argument("--gradient-mb", type=float, help="instead of counting it; 10^6 bytes")
    parser.add_argument(
        "--small-messages", type=float, help="in a step, beside the gradients (default: the network's, between CPUs)"
    )
    parser.add_argument("--bandwidth-gbit", type=float, default=25.0, help="of a machine's network, 10^9 bits a second")
    parser.add_argument("--latency-us", type=float, default=20.0, help="of a message, microseconds")
    parser.add_argument("--overlap", type=float, default=0.5, help="share of compute that hides communication")
    parser.add_argument("--machine-workers", type=int, default=1, help="workers of a machine")
    parser.add_argument("--inner-gbit", type=float, default=2400.0, help="between workers of a machine")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    compute, size = (0.0, 0.0) if given.step_ms and given.gradient_mb else measured(given.network, given.batch)
    compute = given.step_ms / 1e3 if given.step_ms else compute
    size = given.gradient_mb * 1e6 if given.gradient_mb else size
    small = SMALL_MESSAGES[given.network] if given.small_messages is None else given.small_messages
    network = Network(
        given.bandwidth_gbit / 8 * 1e9, given.latency_us / 1e6, given.overlap, given.machine_workers,
        given.inner_gbit / 8 * 1e9, small,
    )  # fmt: skip
    print(f"one worker: {1e3 * compute:.1f} ms a step, {size / 1e6:.2f} MB of gradients; {network}")
    print("| workers | all-reduce, ms | step, ms | efficiency |\n|---|---|---|---|")
    for workers in WORKERS:
        row = model(compute, size, network, workers)
        print(f"| {row.workers:,} | {1e3 * row.communication:.2f} | {1e3 * row.step:.1f} | {row.efficiency:.1%} |")


if __name__ == "__main__":
    main()
