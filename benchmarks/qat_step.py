"""What quantization-aware training costs per step, against the bare step.

    python benchmarks/qat_step.py [--rounds 15] [--steps 4] [--threads 2] [--only TEXT]

Every quantizer with 8-bit weights and activations, on ResNet-20 (batch 64) and on an SR network of 64 channels (batch
8, 32 x 32). All loops of a network run in this process and take turns in short rounds; printed is the ratio to the
bare loop of the same round: minimum, median, maximum. The process keeps freed memory, as the trainer sets it.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.interleaved import compare, options_of
from benchmarks.networks import resnet20
from benchmarks.step_overhead import Batch, Loop, Scheduled, one
from engine.environment import keep_freed_memory
from models.C2SRCNN.model import Net

QUANTIZERS: dict[str, dict[str, Any]] = {
    "DoReFa": {"class": "DorefaQuantizer"},
    "PACT": {"class": "PACTQuantizer"},
    "WRPN": {"class": "WRPNQuantizer"},
    "QAT": {"class": "QuantAwareTrainRangeLinearQuantizer"},
    "QAT per channel": {"class": "QuantAwareTrainRangeLinearQuantizer", "per_channel_wts": True},
    "QAT asymmetric": {"class": "QuantAwareTrainRangeLinearQuantizer", "mode": "ASYMMETRIC_UNSIGNED"},
    "QAT folded": {"class": "QuantAwareTrainRangeLinearQuantizer", "per_channel_wts": True, "fold_batchnorm": True},
    "LSQ": {"class": "LSQQuantizer"},
}


def rows(name: str, make: Callable[[], nn.Module], batch: Batch, loss: Callable[..., Tensor], options: Any) -> None:
    """Prints a row for each quantizer."""
    ways: dict[str, Loop] = {"bare": Loop(make(), batch, loss)}
    for key, instance in QUANTIZERS.items():
        if options.only in key:
            schedule = one("quantizer", {**instance, "bits_activations": 8, "bits_weights": 8})
            ways[key] = Scheduled(make(), batch, loss, schedule, batch[0])
    for key, ratios in compare(ways, options.rounds, options.steps).items():
        print(f"{name:10s} {key:18s} {ratios.milliseconds:8.1f} ms/step   ratio to bare: {ratios}", flush=True)


def main() -> None:
    """Prints every row."""
    options = options_of(__doc__)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    images = (torch.rand(8, 3, 32, 32), torch.rand(8, 3, 64, 64))
    rows("SR, 64", lambda: Net(2, features=64, shrunk=64), images, functional.l1_loss, options)
    labelled = (torch.rand(64, 3, 32, 32), torch.randint(10, (64,)))
    rows("ResNet-20", resnet20, labelled, functional.cross_entropy, options)


if __name__ == "__main__":
    main()
