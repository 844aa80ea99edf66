"""The same networks in every runtime: dense and half the channels, float and int8.

    python benchmarks/runtimes.py [NAMES] [--rounds 7] [--threads 1] [--only TEXT]

The networks are those of deploy.py, with random weights and inputs; quality is not looked at. Without names, the
runtimes that are installed; requirements-runtimes.txt has them all.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.deploy import NETWORKS, halved, quantized
from compress.export.runtimes.measure import measure_runtimes
from compress.export.timing import Timing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="runtimes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="networks whose names hold this text")
    options = parser.parse_args()
    timing = dataclasses.replace(Timing(), rounds=options.rounds, threads=options.threads)
    for name, (make, size) in NETWORKS.items():
        if options.only.lower() in name.lower():
            torch.manual_seed(0)
            example = torch.rand(size)
            networks = {
                "dense": make().eval(),
                "dense, int8": quantized(make().eval(), example),
                "half": halved(make().eval(), size),
                "half, int8": quantized(halved(make().eval(), size), example),
            }
            print(f"\n{name}\n{measure_runtimes(networks, example, options.names, timing=timing)}", flush=True)


if __name__ == "__main__":
    main()
