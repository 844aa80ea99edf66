"""The same networks in every runtime: dense and half the channels, float and int8.

    python benchmarks/runtimes.py [NAMES] [--rounds 7] [--threads 1] [--only TEXT]

C2SRCNN and networks of deploy.py, with random weights and inputs, halved by the library's thinning; quality is not
looked at. Without names, the runtimes that are installed; requirements-runtimes.txt has them all. With one thread,
times are processor time. `results.py --only runtimes` keeps which runtime is the fastest.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.deploy import NETWORKS, halved, quantized
from compress.export.runtimes.measure import RuntimeTable, measure_runtimes
from compress.export.runtimes.text import precision_text
from compress.export.timing import Timing
from models.C2SRCNN.model import Net

MEASURED = {
    "C2SRCNN": (lambda: Net(2), (1, 3, 128, 128)),
    **{name: NETWORKS[name] for name in NETWORKS if name != "ResNet-18"},
}
LIMIT = 1800.0  # seconds of one conversion


def table_of(name: str, runtimes: Sequence[str], rounds: int, threads: int) -> RuntimeTable:
    """One network, in four forms, in each runtime."""
    make, size = MEASURED[name]
    torch.manual_seed(0)
    example = torch.rand(size)
    networks = {
        "dense": make().eval(),
        "dense, int8": quantized(make().eval(), example),
        "half": halved(make().eval(), size),
        "half, int8": quantized(halved(make().eval(), size), example),
    }
    timing = dataclasses.replace(Timing(), rounds=rounds, threads=threads, processor=threads == 1)
    return measure_runtimes(networks, example, list(runtimes), timing=timing, limit=LIMIT)


def fastest(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Network -> runtimes with precision and time, the fastest first."""
    for network in dict.fromkeys(row["network"] for row in rows):
        own = sorted((row for row in rows if row["network"] == network and row["ms"]), key=lambda row: float(row["ms"]))
        yield network, [f"{row['runtime']} ({precision_text(row)}) {row['ms']:.3g} ms" for row in own]


def main() -> None:
    """Prints a table a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="runtimes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="networks whose names hold this text")
    options = parser.parse_args()
    for name in MEASURED:
        if options.only.lower() in name.lower():
            found = table_of(name, options.names, options.rounds, options.threads)
            print(f"\n{name}\n{found}", flush=True)
            for network, runtimes in fastest(found.rows):
                print(f"{network}: {'; '.join(runtimes)}", flush=True)


if __name__ == "__main__":
    main()
