"""What is looked at before a step is trained: the output's shape, and how much of a network can be pruned.

`check_network`, `prunable_story`. Networks that are the bench's own are tested; others are tried here.
"""

from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from compress.analysis.sensitivity.evaluation import evaluating
from compress.errors import UserError
from compress.graph.channels import ChannelGraph
from compress.graph.trace import trace_model
from compress.thinning.trials.trial import prunable_graph
from engine.architectures.own import own_code

Probe = tuple[Sequence[Tensor], tuple[int, ...]]  # inputs, and the shape of the output that the task needs
NAMED = 3  # groups that stay, in the story
LONGEST = 160  # characters of a reason


def is_foreign(arch: str) -> bool:
    """Whether the code of an architecture is not the bench's: a library's, or one's own."""
    return ":" in arch


def check_network(network: nn.Module, arch: str, probes: Iterable[Probe]) -> None:
    """Tries a new network: the shape of its output, and of one that is not the bench's own also the trace.

    Args:
        network: left as it was.
        arch: its name.
        probes: small inputs, and the shape of output that the task needs for each.

    Raises:
        UserError: it cannot do what the task needs; says what.
    """
    foreign = is_foreign(arch)
    tried = list(islice(probes, None if foreign else 1))
    check_outputs(network, arch, tried)
    if foreign and tried:
        check_trace(network, arch, tuple(tried[0][0]))


def check_outputs(network: nn.Module, arch: str, probes: Iterable[Probe]) -> None:
    """Runs a network in eval mode and compares the shape of its output with the task's.

    Args:
        network: left as it was.
        arch: its name.
        probes: see `check_network`.

    Raises:
        UserError: it fails, or gives something else.
    """
    device = next((each.device for each in network.parameters()), torch.device("cpu"))
    devices = [device] if device.type == "cuda" else []
    generator = torch.Generator().manual_seed(0)
    for inputs, wanted in probes:
        shape = " x ".join(map(str, inputs[0].shape))
        fails = own_code(f"--arch={arch} does not run on an input of {shape}")
        with torch.random.fork_rng(devices), torch.no_grad(), evaluating(network), fails:
            given = [torch.rand(each.shape, generator=generator).to(device) for each in inputs]
            kept = [each.clone() for each in given]
            output = network(*given)
        if not all(map(torch.equal, given, kept)):
            raise UserError(
                f"--arch={arch} changes its input in place, which others still read; write `x = x * a` in its forward, "
                "not `x *= a`; nothing was started"
            )
        first = output[0] if isinstance(output, tuple) and len(wanted) == 2 else output  # with early exits
        found = tuple(first.shape) if isinstance(first, Tensor) else None
        if found != wanted:
            gives = " x ".join(map(str, found)) if found is not None else f"a {type(output).__name__}"
            raise UserError(
                f"--arch={arch}: for an input of {shape} the output is {gives}, and the task needs "
                f"{' x '.join(map(str, wanted))}; nothing was started"
            )


def check_trace(network: nn.Module, arch: str, example_inputs: tuple[Tensor, ...]) -> None:
    """Traces a network once, as MACs, thinning and export will.

    Raises:
        UserError: it cannot be traced; says which line of its code is at fault.
    """
    device = next((each.device for each in network.parameters()), torch.device("cpu"))
    try:
        with torch.random.fork_rng([]):
            trace_model(network, tuple(each.to(device) for each in example_inputs))
    except UserError as e:
        raise UserError(f"--arch={arch}: {e}. MACs, thinning and export need the trace, so nothing was started") from e


def prunable_story(network: nn.Module, example_inputs: tuple[Tensor, ...], device: torch.device) -> str:
    """How much of a network can lose channels, and what keeps the rest; or why it cannot be traced. One line."""
    with torch.random.fork_rng([]):
        try:
            graph = prunable_graph(network, tuple(each.to(device) for each in example_inputs))
        except UserError as e:
            reason = " ".join(str(e).split())
            return f"its filters and channels cannot be removed: {reason}"
    total = sum(each.numel() for each in network.parameters())
    share = 100 * _prunable(network, graph) / total if total else 0.0
    return f"{share:.0f} % of {total:,} parameters are in layers that can lose channels{_pinned(graph)}"


def _prunable(network: nn.Module, graph: ChannelGraph) -> int:
    """Elements of the parameters that some group which can lose units covers."""
    parameters = dict(network.named_parameters())
    open_places = {name for group in graph.groups(prunable_only=True) for name, _ in group.members}
    return sum(parameters[name].numel() for name in open_places if name in parameters)


def _pinned(graph: ChannelGraph) -> str:
    """What stays, the largest first."""
    stays = [group for group in graph.groups() if group.pinned]
    stays.sort(key=lambda group: -group.units * group.parameters_per_unit)
    told = "; ".join(f"{group.name}: {_short(group.pinned[0])}" for group in stays[:NAMED])
    more = f"; and {len(stays) - NAMED} more, which --list-groups names" if len(stays) > NAMED else ""
    return f". Pinned: {told}{more}" if stays else ""


def _short(reason: str) -> str:
    return reason if len(reason) <= LONGEST else f"{reason[: LONGEST - 3]}..."
