"""How near every runtime is to PyTorch, for three applications in float and int8: the table of docs/runtimes.md.

    python benchmarks/parity.py [NAMES]

Networks have random weights and inputs, so one run takes a few minutes. Without names, the runtimes that are installed.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.deploy import quantized
from compress.export.runtimes.measure import measure_runtimes
from compress.export.runtimes.text import layers_text, precision_text
from compress.export.timing import Timing
from models.C2SRCNN.model import Net
from models.Classify.zoo import ZOO as CLASSIFY
from models.Deblur.zoo import ZOO as DEBLUR

QUICK = Timing(rounds=2, seconds=0.001, spread=1e9)  # times are not looked at
NETWORKS = {  # application -> network of the zoo, input
    "SR, C2SRCNN": (Net, (1, 3, 24, 24)),
    "Classify, resnet8": (lambda: CLASSIFY("resnet8", num_classes=10, in_channels=3, image_size=32), (1, 3, 32, 32)),
    "Deblur, unet": (lambda: DEBLUR("unet"), (1, 3, 32, 32)),
}
# Largest mean difference, as a share of the largest output. Float32 differs in the order of sums; bfloat16 has 8 bits;
# integers are off by steps of an activation, of 255 steps in a range, where a sum lies on the edge of two.
BOUNDS = {"float32": 1e-5, "bfloat16": 0.02, "int8, rest float32": 0.02, "int8, rest bfloat16": 0.02}
SEVEN_BITS = {"ncnn": 0.05}  # what it reads has a sign, so that an activation without one keeps 7 bits


def bound_of(row: Mapping[str, Any]) -> float:
    """The largest mean difference allowed, as a share of the largest output."""
    own = SEVEN_BITS.get(row["runtime"]) if row["quantized"] else None
    return own or BOUNDS[precision_text(row)]


def rows_of(names: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """One row a network, runtime and precision, as `measure_runtimes` gives them, and the `application`."""
    for application, (make, size) in NETWORKS.items():
        torch.manual_seed(0)
        example, dense = torch.rand(size), make().eval()
        torch.manual_seed(0)
        networks: dict[str, nn.Module] = {"float": dense, "int8": quantized(make().eval(), example)}
        table = measure_runtimes(networks, example, names, check_inputs=[(example,)], timing=QUICK)
        yield from ({**row, "application": application} for row in table.rows)


def share(row: Mapping[str, Any]) -> float:
    """The mean difference as a share of the largest output."""
    return float(row["mean"] / row["largest"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="runtimes")
    found = rows_of(parser.parse_args().names)
    head = ["application, network", "runtime", "precision", "mean difference", "bound", "largest", "in integers"]
    print(tabulate(map(_line, found), head, tablefmt="github", disable_numparse=True))


def _line(row: Mapping[str, Any]) -> list[str]:
    first = [row["application"], f"{row['runtime']} {row['version']}"]
    if row["mean"] is None:
        return [*first, "int8" if row["quantized"] else "float32", f"not run: {row['error']}", "", "", ""]
    largest = f"{row['max'] / row['largest']:.1g}"
    return [*first, precision_text(row), f"{share(row):.1g}", f"{bound_of(row):g}", largest, layers_text(row)]


if __name__ == "__main__":
    main()
