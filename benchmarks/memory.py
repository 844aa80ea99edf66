"""What it costs a training step that freed memory goes back to the system, against a process that keeps it.

    python benchmarks/memory.py [--rounds 5] [--threads 2]

The setting is the process's own (`engine.environment.keep_freed_memory`), so each way is a process, and the processes
take turns; printed are milliseconds a step and pages that the system had to clear, medians over rounds.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

STEPS = 6


def main() -> None:
    """Prints a row for each network and way."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(measured(sys.argv[2], sys.argv[3] == "kept", int(sys.argv[4]))))
        return
    from benchmarks.interleaved import options_of

    options = options_of(__doc__)
    for network in ("C2SRCNN", "ResNet-20", "ResNet-18 224"):
        rows: dict[str, list[list[float]]] = {"returned": [], "kept": []}
        for _ in range(options.rounds):
            for way, row in rows.items():
                command = [sys.executable, __file__, "--child", network, way, str(options.threads)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                row.append(json.loads(done.stdout.splitlines()[-1]))
        medians = {way: [statistics.median(column) for column in zip(*row, strict=True)] for way, row in rows.items()}
        for way, (milliseconds, faults, peak) in medians.items():
            ratio = milliseconds / medians["returned"][0]
            print(
                f"{network:14s} memory {way:9s} {milliseconds:8.1f} ms/step  ratio {ratio:.3f}  "
                f"{faults:9.0f} pages a step  peak {peak:6.0f} MB",
                flush=True,
            )


def measured(network: str, keep: bool, threads: int) -> list[float]:
    """Milliseconds, page faults of a step, and the peak in MB."""
    import torch
    import torchvision
    from torch.nn import functional

    from benchmarks.networks import resnet20
    from benchmarks.step_overhead import Loop
    from engine.environment import keep_freed_memory
    from models.C2SRCNN.model import Net

    torch.set_num_threads(threads)
    if keep and not keep_freed_memory():
        sys.exit("this C library has no mallopt; nothing to compare")
    torch.manual_seed(0)
    if network == "C2SRCNN":
        loop = Loop(Net(2), (torch.rand(16, 3, 50, 50), torch.rand(16, 3, 100, 100)), functional.l1_loss)
    elif network == "ResNet-20":
        loop = Loop(resnet20(), (torch.rand(64, 3, 32, 32), torch.randint(10, (64,))), functional.cross_entropy)
    else:
        batch = (torch.rand(16, 3, 224, 224), torch.randint(1000, (16,)))
        loop = Loop(torchvision.models.resnet18(), batch, functional.cross_entropy)
    for _ in range(3):
        loop()
    faults, started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
    for _ in range(STEPS):
        loop()
    seconds, usage = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    return [1000 * seconds / STEPS, (usage.ru_minflt - faults) / STEPS, usage.ru_maxrss / 1024]


if __name__ == "__main__":
    main()
