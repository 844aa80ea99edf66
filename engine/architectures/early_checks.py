"""What is looked at before a step is trained: the output's shape, a step, and how much of a network can be pruned.

`check_network`, `prunable_story`. Networks that are the bench's own are tested; others are tried here.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.errors import UserError, some
from compress.graph.channels import ChannelGraph
from compress.graph.trace import trace_model
from compress.thinning.proof.copies import restored
from compress.thinning.recipe import tensors_of
from compress.thinning.trials.trial import prunable_graph
from engine.architectures.own_modules import START, own_code, warn_once

Probe = tuple[Sequence[Tensor], tuple[int, ...]]  # inputs, and the shape of the output that the task needs
NAMED = 3  # groups that stay, in the story
SEEDS = (0, 1)  # of two passes that are compared
LONGEST = 160  # characters of a reason
UNUSED_ADVICE = re.compile(r"(if nobody runs it, )?--unused .+?(?= \(in Python)")  # of `how_to_declare`


def is_foreign(arch: str) -> bool:
    """Whether the code of an architecture is not the bench's: a library's, or one's own."""
    return ":" in arch


def check_network(network: nn.Module, arch: str, probes: Iterable[Probe]) -> None:
    """Tries a new network: the shape of its output, and of one that is not the bench's own also a step and the trace.

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
        warn_of_noise(network, arch, tried[0])
        check_step(network, arch, tried[0])
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
    for probe in probes:
        with torch.no_grad(), _kept(network):  # no inference mode: a network may keep what it computes for its steps
            names = set(network.state_dict())
            _output(network.eval(), arch, probe, "")
            _check_names(network, arch, names)


def warn_of_noise(network: nn.Module, arch: str, probe: Probe) -> None:
    """Warns of a network that gives something else each time in eval mode; names where that begins.

    Args:
        network: left as it was.
        arch: its name.
        probe: see `check_network`.
    """
    with torch.no_grad(), _kept(network):
        network.eval()
        one, other = (_output(network, arch, probe, "", seed) for seed in SEEDS)
        if _alike([one], [other]):
            return
        first, second = (_passed_through(network, arch, probe, seed) for seed in SEEDS)
    begins = (
        name for (name, read, gave), (other_name, reads, gives) in zip(first, second, strict=False)
        if name == other_name and _alike(read, reads) and not _alike(gave, gives)
    )  # fmt: skip
    where = next(begins, "")  # a part ends before what it is a part of
    kind = f"{where} ({type(network.get_submodule(where)).__name__})" if where else "its own forward"
    warn_once(
        f"--arch={arch} gives something else each time for the same input in eval mode; it begins in {kind}. What is "
        "measured of it cannot be repeated, and pruning, fusing and export, which prove what they do by comparing "
        "outputs, may refuse it"
    )


def _passed_through(
    network: nn.Module, arch: str, probe: Probe, seed: int
) -> list[tuple[str, list[Tensor], list[Tensor]]]:
    """The name, inputs and outputs of each module, in the order in which they end."""
    found: list[tuple[str, list[Tensor], list[Tensor]]] = []

    def keep(name: str, inputs: Any, output: Any) -> None:
        found.append((name, _copies(inputs), _copies(output)))

    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: keep(name, inputs, output))
        for name, module in network.named_modules()
    ]
    try:
        _output(network, arch, probe, "", seed)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _copies(values: Any) -> list[Tensor]:
    return [leaf.clone() for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def _alike(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether tensors are equal; on a GPU sums may come in another order."""
    share = 1e-3 if any(each.is_cuda for each in one) else 0.0
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.allclose(a, b, share, share, equal_nan=True)
        for a, b in zip(one, other, strict=True)
    )


def check_step(network: nn.Module, arch: str, probe: Probe) -> None:
    """Runs a network forward and backward in training mode, on two samples.

    Args:
        network: left as it was.
        arch: its name.
        probe: of one sample.

    Raises:
        UserError: it fails, gives something else than in eval mode, or has nothing that can be trained.
    """
    trained = [each for each in network.parameters() if each.requires_grad]
    if not trained:
        raise UserError(f"--arch={arch} has no parameter that asks for gradients; {START}")
    inputs, wanted = probe
    two = [torch.cat([each, each]) for each in inputs], (2, *wanted[1:])
    with _kept(network):
        names = set(network.state_dict())
        output = _output(network.train(), arch, two, " in training mode")
        _check_names(network, arch, names)
        if not output.requires_grad:
            raise UserError(f"--arch={arch}: its output does not depend on a parameter that is trained; {START}")
        with own_code(f"--arch={arch}: its gradients cannot be computed"):
            torch.autograd.grad(output.float().mean(), trained, allow_unused=True)


def one_sample_fault(network: nn.Module, probe: Probe) -> str | None:
    """Why a network cannot run in training mode on one sample, with the module that refuses; None where it can.

    Args:
        network: left as it was. One with SyncBatchNorm, which has the samples of other processes too, is not tried.
        probe: of one sample.
    """
    if any(isinstance(module, nn.SyncBatchNorm) for module in network.modules()):
        return None
    device = next((each.device for each in network.parameters()), torch.device("cpu"))
    inside: list[str] = []  # modules whose forward has begun and not ended, the innermost last

    def enter(name: str) -> None:
        inside.append(name)

    def leave() -> None:
        inside.pop()

    with torch.no_grad(), _kept(network), torch.random.fork_rng([device] if device.type == "cuda" else []):
        hooks = contextlib.ExitStack()
        for name, module in network.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(lambda *_, name=name: enter(name)))
            hooks.enter_context(module.register_forward_hook(lambda *_: leave()))
        try:
            network.train()(*(torch.rand(each.shape).to(device, each.dtype) for each in probe[0]))
        except Exception as e:
            name = inside[-1] if inside else ""
            where = f"{name} ({type(network.get_submodule(name)).__name__})" if name else type(network).__name__
            return f"{where} raises {type(e).__name__}: {' '.join(str(e).split())[:200]}"
        finally:
            hooks.close()
    return None


@contextlib.contextmanager
def _kept(network: nn.Module) -> Iterator[None]:
    """Puts back what a pass in training mode changes: modes, values, buffers that it replaces, what modules keep."""
    with restored(network):
        for tensor in tensors_of(network).values():
            tensor.data = tensor.data.clone()  # in-place writes go there
        yield


def _check_names(network: nn.Module, arch: str, before: set[str]) -> None:
    """Refuses a network whose forward makes, or removes, what a checkpoint holds: a new one would not have it."""
    changed = sorted(before ^ set(network.state_dict()))
    if changed:
        raise UserError(
            f"--arch={arch}: its forward makes or removes {some(changed)}, so a checkpoint would not fit the network "
            f"that its constructor builds; make parameters and buffers in the constructor; {START}"
        )


def _output(network: nn.Module, arch: str, probe: Probe, mode: str, seed: int | None = None) -> Tensor:
    """The output for random values of a probe's shape, checked; `mode` stands in messages, `seed` is for what draws."""
    inputs, wanted = probe
    device = next((each.device for each in network.parameters()), torch.device("cpu"))
    shape = " x ".join(map(str, inputs[0].shape))
    generator = torch.Generator().manual_seed(0)
    fails = own_code(f"--arch={arch} does not run{mode} on an input of {shape}")
    with torch.random.fork_rng([device] if device.type == "cuda" else []), fails:
        given = [torch.rand(each.shape, generator=generator).to(device) for each in inputs]
        kept = [each.clone() for each in given]
        if seed is not None:
            torch.manual_seed(seed)
        output = network(*given)
    if not all(map(torch.equal, given, kept)):
        raise UserError(
            f"--arch={arch} changes its input in place{mode}, which others still read; write `x = x * a` in its "
            f"forward, not `x *= a`; {START}"
        )
    first = output[0] if isinstance(output, tuple) and len(wanted) == 2 else output  # with early exits
    if not isinstance(first, Tensor) or tuple(first.shape) != wanted or not first.is_floating_point():
        raise UserError(
            f"--arch={arch}: for an input of {shape} the output{mode} is {_described(first)}, and the task needs "
            f"{' x '.join(map(str, wanted))}{_sides(first, wanted)}; {START}"
        )
    return first


def _described(output: Any) -> str:
    if not isinstance(output, Tensor):
        return f"a {type(output).__name__}"
    shape = " x ".join(map(str, output.shape))
    return shape if output.is_floating_point() else f"{shape} of {output.dtype}"


def _sides(output: Any, wanted: tuple[int, ...]) -> str:
    """What helps where an image comes out a little smaller than it should."""
    alike = isinstance(output, Tensor) and output.shape[:2] == wanted[:2] and output.dim() == len(wanted) == 4
    lost = (
        alike
        and tuple(output.shape) != wanted
        and all(0 <= b - a < 64 for a, b in zip(output.shape, wanted, strict=True))
    )
    return ": pad inside its forward where halving or borders lose pixels" if lost else ""


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
    if not more and any(len(group.pinned[0]) > LONGEST for group in stays):
        more = "; --list-groups has the whole reasons"
    return f". Pinned: {told}{more}" if stays else ""


def _short(reason: str) -> str:
    """A reason that is not too long; what it says to type stays whole."""
    remedy = UNUSED_ADVICE.search(reason)
    if len(reason) <= LONGEST or remedy is None:
        return reason if len(reason) <= LONGEST else f"{reason[: LONGEST - 3]}..."
    before = reason[: remedy.start()]
    return f"{before if len(before) <= LONGEST else f'{before[: LONGEST - 3]}... '}{remedy[0]}"
