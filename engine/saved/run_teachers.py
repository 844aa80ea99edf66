"""The teachers of a run: what `teacher: NAME` in a schedule means here, and the file that keeps them.

`RunTeachers`. A teacher never changes, so its weights are written once, to `teachers.pt` beside the checkpoints, and
not with each epoch; a resumed run takes them from there, whatever has become of the file that they came from.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from apputils.checkpoints.file import load_checkpoint, load_weights, save_checkpoint
from apputils.checkpoints.schema import check_run, check_teachers
from apputils.checkpoints.weight_checks import check_weights
from apputils.runs.folders import Run
from compress.distillation.teachers import SELF, Teachers
from compress.errors import UserError
from compress.thinning.recipe import Recipe
from engine.architectures.zoo import arguments_of
from engine.saved.load_model import new_network
from engine.saved.rebuild import load_exact_weights, rebuild

MEANINGS = (
    "`self`, a checkpoint file, the name of a run in checkpoints/, ARCHITECTURE=FILE with an architecture of the "
    "application and a file of its weights, or torchvision:NAME=pretrained"
)
PRETRAINED = "pretrained"
WITH_WEIGHTS = re.compile(r"([^()=]+(?:\([^()]*\))?)=(.+)")  # architecture, perhaps with settings, and its weights


class RunTeachers:
    """Finds teachers by name, and saves them.

    Args:
        optform: the application.
        architecture: makes a network of an architecture of the application; its argument `pretrained` asks for the
            one that its library has trained.
        resumed: the run whose teachers are taken again; None for a new run.
    """

    def __init__(
        self, optform: str, architecture: Callable[[str, bool], nn.Module], resumed: str | None = None
    ) -> None:
        self._optform = optform
        self._architecture = architecture
        self._sources: dict[str, dict[str, Any]] = {}
        self._saved: list[str] = []
        self._file: dict[str, Any] | None = None
        if resumed is not None and Run(resumed).teachers.is_file():
            self._file = _read(Run(resumed))
            self._sources = dict(self._file["sources"])

    def __call__(self, name: str) -> nn.Module:
        """The network of that name, trained.

        Raises:
            UserError: there is none.
        """
        with torch.random.fork_rng():  # a new network draws random weights; the run's numbers stay the same
            if name in self._sources:
                return _of_source(self._sources[name])
            network, recipes, optform = self._find(name)
        self._sources[name] = {
            "optform": optform,
            "network": {"class": type(network).__name__, "arguments": arguments_of(network)},
            "recipes": list(recipes),
        }
        return network

    def with_weights(self, scheduler_state: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint's scheduler state with the teachers' weights put in.

        Raises:
            UserError: the file of the teachers is missing.
        """
        names = list(scheduler_state.get("teachers", {}))
        if not names:
            return scheduler_state
        if self._file is None or not set(names) <= set(self._file["teachers"]):
            raise UserError(f"the run's teachers.pt, which keeps the teachers {', '.join(names)}, is missing. {_AGAIN}")
        return {**scheduler_state, "teachers": {name: self._file["teachers"][name] for name in names}}

    def save(self, teachers: Teachers, run: Run) -> None:
        """Writes the file if a teacher is there that is not in it yet."""
        if teachers.names != self._saved:
            content = {"run": run.name, "sources": self._sources, "teachers": teachers.state_dict()}
            save_checkpoint(run.teachers, content)
            self._saved = teachers.names

    def of_the_task(self, name: str) -> bool:
        """Whether a teacher was trained for the run's own task, so that the task's metrics mean something of it."""
        if name == SELF:
            return True
        return self._sources[name]["optform"] == self._optform and not name.endswith(f"={PRETRAINED}")

    def _find(self, name: str) -> tuple[nn.Module, Sequence[dict[str, Any]], str]:
        """Network, thinnings it has gone through, application."""
        path = Path(name) if Path(name).is_file() else Run(name).best
        if path.is_file():
            checkpoint = check_run(load_checkpoint(path), path)
            network = rebuild(new_network(checkpoint), checkpoint)
            return network, checkpoint["scheduler"]["recipes"], checkpoint["optform"]
        found = WITH_WEIGHTS.fullmatch(name)
        if found is None:
            raise UserError(self._no_teacher(name))
        architecture, weights = found.groups()
        network = self._architecture(architecture, weights == PRETRAINED)
        if weights != PRETRAINED:
            try:
                given = load_weights(Path(weights))
                check_weights(given, network.state_dict())
                load_exact_weights(network, given)
            except UserError as e:
                raise UserError(
                    f"the teacher {name!r}: {e}; settings of its architecture stand in its name, as in "
                    "vgg16_named(width_mult=0.25)=FILE"
                ) from e
        return network, (), self._optform

    def _no_teacher(self, name: str) -> str:
        """What is wrong with a name that means no trained network."""
        try:
            with torch.device("meta"):
                self._architecture(name, False)
        except (UserError, NotImplementedError):
            return f"there is no teacher {name!r}; a teacher is {MEANINGS}"
        library = f", or {name}={PRETRAINED} for the weights of its library" if ":" in name else ""
        return (
            f"{name!r} is an architecture without weights, and an untrained network teaches nothing; write {name}=FILE "
            f"with a file of its weights{library}"
        )


_AGAIN = (
    "Put it back from a copy of the run's folder, or have it made anew from where the teachers came from: --resume=RUN "
    "--reset-schedule --compress=SCHEDULE, with the run's own schedule, after the damaged file is removed"
)


def _read(run: Run) -> dict[str, Any]:
    """The file of a run's teachers.

    Raises:
        UserError: it is damaged; says how to have it made anew.
    """
    try:
        return check_teachers(load_checkpoint(run.teachers), run.teachers)
    except UserError as e:
        raise UserError(f"{e}. It keeps the teachers of the run. {_AGAIN}") from e


def saved_teachers(run: Run, checkpoint: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The teachers of a run that answer its own task, out of its files, with their weights, in eval mode.

    Raises:
        UserError: the file that keeps them is missing or damaged, or does not fit.
    """
    file = _read(run)
    found = {}
    for name, entry in file["teachers"].items():
        source = file["sources"].get(name)
        if name == SELF:
            recipes = checkpoint["scheduler"]["recipes"][: entry["recipes"]]
            source = {"network": checkpoint["network"], "optform": checkpoint["optform"], "recipes": recipes}
        if source is None or source["optform"] != checkpoint["optform"] or name.endswith(f"={PRETRAINED}"):
            continue
        network = _of_source(source)
        load_exact_weights(network, entry["weights"])
        found[name] = network.eval()
    return found


def _of_source(source: dict[str, Any]) -> nn.Module:
    """A network of the same structure; its weights come with the scheduler's state."""
    network = new_network(source)
    for recipe in source["recipes"]:
        Recipe.from_dict(recipe).apply(network)
    return network
