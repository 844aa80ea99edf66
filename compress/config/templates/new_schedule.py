"""A commented starting schedule for a network, its real weight names filled in.

Filling a template of this folder, one for each method family. Called by `train.py --new-schedule`.
"""

import contextlib
import os
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from string import Template

from torch import nn

from compress.errors import UserError, did_you_mean
from compress.graph.trace import ExampleInputs, canonical_names
from compress.graph.training import traces_of
from compress.groups import Tilings
from compress.io.files import read_text
from compress.pruning.coupled_masks import channel_dim
from compress.selectors import canonical_modules, canonical_parameters, unwrapped
from compress.thinning.ranking import NEVER_READ, NO_CHANNELS, staying
from compress.thinning.trials.trial import prunable_graph

TEMPLATES = Path(__file__).parent
NO_FILTERS = (NEVER_READ, NO_CHANNELS)
MODELINE = "# yaml-language-server: $schema=schedules/schedule.schema.json"
SCHEMA = Path(__file__).parents[3] / "schedules" / "schedule.schema.json"


def families() -> list[str]:
    """The families that a schedule can be started for."""
    return sorted(path.stem for path in TEMPLATES.glob("*.yaml"))


DISTILLERS = {  # whether the output is a set of logits -> class and arguments
    True: (
        "KnowledgeDistillation",
        "temperature: 4.0          # of the softmax\n    distillation_wt: 0.7\n    student_wt: 0.3",
    ),
    False: (
        "OutputDistillation",
        "loss: l1                  # mean absolute difference of the outputs\n    distillation_wt: 0.5",
    ),
}


def modeline(path: Path) -> str:
    """The line by which an editor finds the schema; it reads the place from the schedule's own folder."""
    try:
        place = os.path.relpath(SCHEMA, path.absolute().parent)
    except ValueError:  # another drive
        place = str(SCHEMA)
    return f"# yaml-language-server: $schema={Path(place).as_posix()}"


def new_schedule(
    family: str,
    model: nn.Module,
    command: str,
    gives_logits: bool = False,
    example_inputs: ExampleInputs | None = None,
) -> str:
    """The text of a schedule.

    Args:
        family: one of `families()`.
        model: whose weights are named. The first and the last layer are written as comments: they are small and
            usually the most sensitive.
        command: what trains this network, for the header, which adds `--compress`.
        gives_logits: whether the network's output is a set of logits; decides how a teacher is listened to.
        example_inputs: of the network; with them weights that no call reads are comments, with the reason, and where
            filters go also those of which no filter can leave the network.

    Raises:
        UserError: unknown family, or filters are to leave and none of any weight can.
    """
    if family not in families():
        raise UserError(f"--new-schedule={family}: unknown family; {did_you_mean(family, families())}")
    text = read_text(TEMPLATES / f"{family}.yaml")
    names = [name for name, parameter in canonical_parameters(model).items() if parameter.dim() > 1]
    stay = {} if example_inputs is None else _staying(model, names, example_inputs, "Filters" in text)
    ends = _ends(model, [name for name in names if stay.get(name) != NEVER_READ])
    if not _active(names, stay, ends):
        if "FilterRemover" in text:
            raise UserError(
                f"--new-schedule={family}: of no weight of {type(model).__name__} can filters leave the network: "
                f"{'; '.join(dict.fromkeys(stay.values()))}; --list-groups lists them"
            )
        stay = {name: reason for name, reason in stay.items() if reason in NO_FILTERS}  # others are zeroed in place
    distiller, settings = DISTILLERS[gives_logits]
    return Template(text).substitute(
        modeline=MODELINE,
        command=command,
        distiller=distiller,
        distiller_settings=settings,
        weights=_lines(names, stay, ends, "- NAME"),
        values=_lines(names, stay, ends, "NAME: 0.5"),
        regims=_lines(names, stay, ends, "NAME: [0.0005, Filters]"),
        strengths=_lines(names, stay, ends, "NAME: 0.00001"),
    )


def _staying(
    model: nn.Module, names: Collection[str], example_inputs: ExampleInputs, by_filter: bool
) -> dict[str, str]:
    """Weights that no call reads, and if asked for those of which no filter can leave; each with the reason.

    None where the network cannot be traced, which loading reports.
    """
    parameters = canonical_parameters(model)
    with contextlib.suppress(UserError):
        unread = {id(each) for each in _unread(unwrapped(model), example_inputs)}
        never = {name: NEVER_READ for name in names if id(parameters[name]) in unread}
        if not by_filter:
            return never
        tilings, places = Tilings(), {}
        for name in names:
            with contextlib.suppress(ValueError):
                shape = parameters[name].shape
                dim = channel_dim("Filters", shape, tilings.tile(model, name, shape, "Filters"))
                places[name] = (name, 0 if dim is None else dim)
        without = {name: NO_CHANNELS for name in names if name not in places}
        return without | staying(places, prunable_graph(unwrapped(model), example_inputs)) | never
    return {}


def _unread(model: nn.Module, example_inputs: ExampleInputs) -> list[nn.Parameter]:
    """The parameters that no call reads, in no mode, but for those of parts that failed in training mode."""
    traces, canonical = traces_of(model, example_inputs), canonical_names(model)
    read = {name for trace in traces for name in trace.read}
    failed = tuple(f"{part}." for trace in traces for part in trace.failed)
    return [each for n, each in model.named_parameters() if canonical[n] not in read and not n.startswith(failed)]


def _ends(model: nn.Module, names: Sequence[str]) -> set[str]:
    """The weights of the first and the last layer; none of two layers. A table of positions is no layer."""
    modules = canonical_modules(model, remove_duplicate=False)
    plain = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
    layers = [
        name
        for name in names
        if any(
            each.__module__.startswith("torch.") and each not in plain
            for each in type(modules[name.rpartition(".")[0]]).__mro__
        )
    ]
    layers = layers or list(names)
    return {layers[0], layers[-1]} if len(layers) > 2 else set()


def _active(names: Sequence[str], stay: Collection[str], ends: Collection[str]) -> list[str]:
    """All that do not stay, but for the first and the last layer if there are others."""
    left = [name for name in names if name not in stay]
    return [name for name in left if name not in ends] or left


def _lines(names: Sequence[str], stay: Mapping[str, str], ends: Collection[str], form: str) -> str:
    """One indented line a weight; those that are not active are comments, with the reason if there is one."""
    lines, active = [], _active(names, stay, ends)
    for name in names:
        reason = textwrap.shorten(stay.get(name, ""), 90, placeholder=" ... (--list-groups)")
        start = f"      {'' if name in active else '# '}{form.replace('NAME', name)}"
        lines.append(f"{start}  # stays: {reason}" if reason else start)
    return "\n".join(lines).lstrip()
