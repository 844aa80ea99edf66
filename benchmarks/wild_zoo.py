"""Thin networks of other people's packages and print one row each: equal, refused, wrong or crashed?

    pip install -r benchmarks/requirements.txt                  # timm, spandrel, ...: none is needed elsewhere
    python benchmarks/wild_zoo.py                               # all, two hours on one core; it can be stopped
    python benchmarks/wild_zoo.py --package timm 'conv*' nest*  # by package and by name or glob
    python benchmarks/wild_zoo.py --compare                     # Torch-Pruning beside it
    python benchmarks/wild_zoo.py --table                       # nothing is run: the tables of what is there
    python benchmarks/wild_zoo.py --out benchmarks/wild_zoo.jsonl --page benchmarks/WILD_ZOO.md     # and the page

Of each group 30 % of the units go, by L1 norm. Verdicts, the same for both tools (`wild_judge.py`): a fresh build
whose removed positions are zero and the pruned network are compared in float64 on another batch and on another image
size. Ours thins the network in float32, as people have it, and its recipe is applied to the float64 twin for the judge:

    equal     they compute the same (1e-8 relative)
    in part   the same, but groups had to stay because a trial failed; the note says which and why
    refused   nothing was pruned
    wrong     it computes something else
    crash     an error that is not a message of the tool
    timeout   no answer within twice `--timeout`

Each network runs in a process of its own, with a limit of time. Rows are appended to a file of JSON lines, which is
read again at the next start: what is there is not run again; the last row of a network and tool counts, and `--page`
leaves only those in the file. Seconds are of the CPU, one thread.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import json
import multiprocessing
import multiprocessing.connection
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.thinning_zoo import FRACTION, roughen, weakest
from benchmarks.wild_judge import EQUAL, distance, kept_positions, without
from benchmarks.wild_networks import PACKAGES, Network, networks
from benchmarks.wild_table import attends, print_tables, row_line, shares, write_page
from compress.errors import UserError
from compress.graph.calls import Unused
from compress.graph.channels import channel_graph
from compress.graph.macs.count import count_macs
from compress.thinning.proof.observe import ForwardFailed
from compress.thinning.thin import remove_units
from compress.thinning.trials.trial import prunable_graph

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["*"], help="names or globs")
    parser.add_argument("--package", choices=sorted(PACKAGES), action="append", help="one or several; default: all")
    parser.add_argument("--out", type=Path, default=Path("results/wild_zoo.jsonl"))
    parser.add_argument(
        "--timeout", type=int, default=60, help="half the seconds of the processor for one network and tool"
    )
    parser.add_argument("--minutes", type=float, default=1e9, help="start no network after so long")
    parser.add_argument("--compare", action="store_true", help="Torch-Pruning on the same networks")
    parser.add_argument("--again", action="store_true", help="run what is there already, too")
    parser.add_argument("--table", action="store_true", help="print the tables of what is there, and run nothing")
    parser.add_argument("--page", type=Path, help="write them into this file, below its mark, and run nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.page:
        rows = sorted_rows(known_rows(options.out))
        options.out.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
        write_page(options.page, rows, missing(rows))
    elif options.table:
        print_tables(known_rows(options.out))
    else:
        run_all(options)


def sorted_rows(rows: dict[tuple[str, str, str], Row]) -> dict[tuple[str, str, str], Row]:
    """By package, then as they were run."""
    return dict(sorted(rows.items(), key=lambda each: (list(PACKAGES).index(each[0][0]), each[0][2] != "ours")))


def missing(rows: dict[tuple[str, str, str], Row]) -> dict[str, list[str]]:
    """Package -> its networks without a row of ours."""
    return {
        package: [each.name for each in networks(package) if (package, each.name, "ours") not in rows]
        for package in PACKAGES
    }


def run_all(options: argparse.Namespace) -> None:
    """All chosen networks, one after the other, by both tools if asked."""
    start = time.monotonic()
    done = set() if options.again else set(known_rows(options.out))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for package in options.package or PACKAGES:
        for network in networks(package):
            if not any(fnmatch.fnmatch(network.name, glob) for glob in options.names):
                continue
            for tool in ("ours", "Torch-Pruning")[: 1 + options.compare]:
                if (package, network.name, tool) not in done and time.monotonic() - start < 60 * options.minutes:
                    row = {**in_own_process(network, tool, options.timeout), "version": version()}
                    with options.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(row_line(row), flush=True)


@functools.cache
def version() -> str:
    """The commit that is run, and the day."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return f"{found or 'unknown'}, {time.strftime('%Y-%m-%d', time.gmtime())}"


def known_rows(file: Path) -> dict[tuple[str, str, str], Row]:
    """(package, network, tool) -> its last row."""
    lines = file.read_text().splitlines() if file.exists() else []
    rows = [json.loads(line) for line in lines]
    return {(row["package"], row["network"], row["tool"]): row for row in rows}


def in_own_process(network: Network, tool: str, limit: int) -> Row:
    """The row of a network, whatever happens to the process that works on it."""
    row: Row = {"package": network.package, "network": network.name, "tool": tool}
    context = multiprocessing.get_context("fork")  # the package has been imported already
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_send_row, args=(network, tool, theirs, 2 * limit), daemon=True)
    child.start()
    theirs.close()
    try:
        row.update(ours.recv())
    except EOFError:
        child.join()
        ended = -(child.exitcode or 0)
        row.update(verdict="crash", note=f"the process ended by signal {ended}")
        if ended == signal.SIGXCPU:
            row.update(verdict="timeout", note=f"over {2 * limit} s")
    child.kill()
    child.join()
    return row


def _send_row(network: Network, tool: str, pipe: multiprocessing.connection.Connection, seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # of the processor, however busy the machine is
    try:
        row = TOOLS[tool](network)
    except Exception as error:  # a bug, of a tool or of this benchmark: that is what we look for
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        row = {"verdict": "crash", "note": text.replace("\n", " ")[:300]}
    pipe.send(row)


def fresh(network: Network) -> nn.Module:
    """The network with seeded random weights, none of them constant, in float64."""
    torch.manual_seed(0)
    model = network.build(network.size)
    roughen(model)
    model.double().eval()
    with torch.no_grad():  # float32 has too few numbers: every weight must be one of its own for the judge
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(1e-6 * torch.randn_like(parameter))
    return model


def doubled(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same in float64 where it is not an integer."""
    return tuple(x.double() if x.is_floating_point() else x for x in inputs)


def our_row(network: Network) -> Row:
    """What thinning makes of a network in float32, as people have it; the judge gets its float64 twin by the recipe."""
    model, batch = fresh(network).float(), network.inputs_of(2, network.size, 1)
    unused = [Unused(pattern) for pattern in network.unused]
    calls = [batch, *unused]
    before = time.process_time()
    try:
        dense = sizes(model, batch)
        before = time.process_time()
        graph = prunable_graph(model, calls)
        middle = time.process_time()
        found = shares(graph, model, unused)
        result = remove_units(model, graph, weakest(model, graph), calls)
    except UserError as error:
        return {"verdict": "refused", "note": str(error)[:400], "seconds": time.process_time() - before}
    after = time.process_time()
    row = {
        **dense,
        **found,
        "attends": attends(model),
        "graph_s": middle - before,
        "thin_s": after - middle,
        "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "proof": result.difference,
    }
    row.update(judged(network, result.recipe.apply(fresh(network))))
    row["undecided"] = "; ".join(graph.notes)
    kept = [each for each in result.notes if each not in graph.notes]
    if row["verdict"] == "equal" and kept:
        row.update(verdict="in part", note="; ".join(kept)[:400])
    return row


def their_row(network: Network) -> Row:
    """What Torch-Pruning makes of it; layers that end in the network's outputs are named to it, as it asks for."""
    import torch_pruning

    model, batch = fresh(network), doubled(network.inputs_of(2, network.size, 1))
    keep = at_outputs(model, batch, [Unused(pattern) for pattern in network.unused])
    before = time.process_time()
    try:
        importance = torch_pruning.importance.MagnitudeImportance(p=1)
        pruner = torch_pruning.pruner.MagnitudePruner(
            model, batch[0], importance=importance, pruning_ratio=FRACTION, ignored_layers=keep
        )
        pruner.step()
    except Exception as error:  # whatever it raises is its verdict
        return {"verdict": "crash", "note": f"{type(error).__name__}: {error}".replace("\n", " ")[:300]}
    row = {"thin_s": time.process_time() - before, "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
    try:
        row.update(judged(network, model))
    except (ForwardFailed, ValueError) as error:
        row.update(verdict="wrong", note=f"{type(error).__name__}: {error}"[:300])
    return row


def at_outputs(model: nn.Module, batch: tuple[Any, ...], unused: list[Unused]) -> list[nn.Module]:
    """The layers whose channels are the network's outputs, by our graph."""
    try:
        graph = channel_graph(model, [batch, *unused])
    except UserError:
        return []
    weights = {name for name, _ in model.named_parameters() if "network output" in graph.why_pinned(name)}
    return [module for name, module in model.named_modules() if f"{name}.weight" in weights]


TOOLS = {"ours": our_row, "Torch-Pruning": their_row}


def sizes(model: nn.Module, batch: tuple[Any, ...]) -> Row:
    """Our count of multiply-accumulates beside torch's own, whose counter stumbles over views that need a gradient."""
    needed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*batch)
    for parameter in needed:
        parameter.requires_grad_()
    counted = count_macs(model, batch)
    return {"macs": counted.total, "flop_counter": counter.get_total_flops() // 2}


def judged(network: Network, pruned: nn.Module) -> Row:
    """The verdict, what is left of parameters, and the differences on other inputs."""
    masked = fresh(network)
    # For networks that make tensors of their own, or compute parts in float32: this process has nothing else to do.
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    total = sum(p.numel() for p in masked.parameters())
    left = sum(p.numel() for p in pruned.parameters())
    kept = kept_positions(masked, pruned)
    without(masked, kept)
    other = distance(pruned, masked, doubled(network.inputs_of(3, network.size, 2)))
    larger = distance(pruned, masked, doubled(network.inputs_of(2, network.size + network.step, 3)))
    row: Row = {"parameters": total, "left": left / total, "other_batch": other, "other_size": larger}
    if not kept:
        return {**row, "verdict": "refused", "note": "nothing can be removed"}
    worst = [each for each in (other, larger) if each is not None]
    if not worst:
        return {**row, "verdict": "crash", "note": "the masked network does not run on another batch"}
    return {**row, "verdict": "equal" if all(each <= EQUAL for each in worst) else "wrong", "note": ""}


if __name__ == "__main__":
    main()
