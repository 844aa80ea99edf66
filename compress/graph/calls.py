"""What a network is run with: one call of `forward`, or several calls, of other methods and other stages too.

`Call`, `Unused`, and the reading of what a user gives as `example_inputs`.

    example_inputs = image                                      # one call: model(image)
    example_inputs = (image, mask)                              # one call: model(image, mask)
    example_inputs = {"x": image, "mask": mask}                 # one call: model(x=image, mask=mask)
    example_inputs = [image, {"x": image, "mask": mask}]        # two: model(image), model(x=image, mask=mask)
    example_inputs = [image, Call(image, method="project")]     # model(image), model.project(image)
    example_inputs = [image, Call(image, setting={"stage": 2})] # model(image), and again with model.stage = 2
    example_inputs = [image, Unused("head.*")]                  # nobody ever runs model.head

What nobody runs may also be declared at the network: `declare_unused(model, ["head"])`, or `unused_parts` of its class.
"""

from __future__ import annotations

import contextlib
import fnmatch
import inspect
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.arguments.checked import checks_arguments
from compress.errors import UserError, did_you_mean
from compress.graph.modes import run_eagerly

Arguments = tuple[Any, ...] | dict[str, Any]  # of one call: positional, or all of them by name


def copies(values: Any) -> Any:
    """Tuples, lists, dictionaries as they are, with a copy of each tensor in them.

    For a call of a network that others call on the same inputs: it may write into its own (`x *= 255`).
    """
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, values)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a network.

    Attributes:
        inputs: a tensor, the tuple of positional arguments, or a dictionary of named ones.
        method: what is called: `forward`, another method such as `project`, or one of a part, `encoder.project`.
        setting: attributes that the training loop changes before such a call, such as `{"stage": 2}`.
    """

    inputs: Any
    method: str = "forward"
    setting: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The positional arguments."""
        if isinstance(self.inputs, dict):
            return ()
        return self.inputs if isinstance(self.inputs, tuple) else (self.inputs,)

    @property
    def keywords(self) -> dict[str, Any]:
        """The named arguments."""
        return self.inputs if isinstance(self.inputs, dict) else {}

    @property
    def owner(self) -> str:
        """The part of the network whose method is called; '' is the network itself."""
        return self.method.rpartition(".")[0]

    @property
    def is_plain(self) -> bool:
        """Whether it is what a training loop does first of all: `model(...)`, with nothing set."""
        return self.method == "forward" and not self.setting


def run_on(model: nn.Module, inputs: Any) -> Any:
    """What a network returns for a tensor, the tuple of its arguments, or a dictionary of named ones; see `copies`."""
    call = Call(inputs)
    arguments, keywords = copies((call.arguments, call.keywords))
    return model(*arguments, **keywords)


def by_name(network: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Arguments:
    """The positional arguments of a call; all of them by name, if some are named."""
    if not named or not arguments:
        return named or arguments
    names = list(inspect.signature(network.forward).parameters)
    return {**dict(zip(names, arguments, strict=False)), **named}


@dataclass(frozen=True)
class Unused:
    """Parts of a network that nobody runs, by name or pattern: nothing needs to fit them.

    Attributes:
        pattern: of parameter or module names, such as `head.*`, `head` or `blocks.*.head`.
    """

    pattern: str

    def covers(self, parameter: str) -> bool:
        """Whether a parameter belongs to it."""
        return any(fnmatch.fnmatchcase(parameter, each) for each in (self.pattern, f"{self.pattern}.*"))


UNUSED = "unused_parts"  # attribute of a network, of a part or of their classes: patterns of what nobody runs


@checks_arguments
def declare_unused(model: nn.Module, patterns: Iterable[str]) -> None:
    """Declares parts of a network that nobody runs: every graph of it made from now on knows them.

    A class may say the same of what it makes, by an attribute: `unused_parts = ("old_head",)`.

    Args:
        model: the network; it gets the attribute, beside what it declares already.
        patterns: of parameter or module names, as in `Unused`.

    Raises:
        UserError: one covers no parameter of the network.
    """
    found = tuple(dict.fromkeys((*_declared(model), *patterns)))
    _check([Unused(each) for each in found], model)
    if found:
        vars(model)[UNUSED] = found


def how_to_declare(parts: Iterable[str]) -> str:
    """What to type so that parts count as unused, on the command line and in Python."""
    parts = list(dict.fromkeys(parts))
    words = shlex.join(["--unused", *parts])
    return f"{words} (in Python {', '.join(f'Unused({part!r})' for part in parts)} among the example_inputs)"


Inputs = torch.Tensor | tuple[Any, ...] | dict[str, Any] | Call | list[Any]
"""A tensor, the tuple of `forward`'s arguments, a dictionary of named ones, a `Call`, or a list of such."""


def calls_of(example_inputs: Inputs) -> list[Call]:
    """All calls, the first one first.

    Raises:
        UserError: a list without a call.
    """
    given = example_inputs if isinstance(example_inputs, list) else [example_inputs]
    calls = [each if isinstance(each, Call) else Call(each) for each in given if not isinstance(each, Unused)]
    if not calls:
        raise UserError(
            "example_inputs is a list without a call; give tensors, tuples of arguments, dictionaries of named ones, "
            "or Call(inputs, method=...)"
        )
    return calls


def forward_call(example_inputs: Inputs) -> Call:
    """The first call that is `model(...)` with nothing set, else the first of all."""
    calls = calls_of(example_inputs)
    return next((call for call in calls if call.is_plain), calls[0])


def unused_in(example_inputs: Inputs, model: nn.Module) -> tuple[Unused, ...]:
    """What the user declares to be in no use: among the inputs, and at the network and its parts.

    Raises:
        UserError: it is nothing of the model.
    """
    given = example_inputs if isinstance(example_inputs, list) else []
    found = [each for each in given if isinstance(each, Unused)]
    for name, module in model.named_modules():
        found += [Unused(f"{name}.{each}".lstrip(".")) for each in _declared(module)]
    _check(found, model)
    return tuple(dict.fromkeys(found))


def _declared(module: nn.Module) -> tuple[str, ...]:
    """Its own `unused_parts`, unless that is something else of the same name."""
    found = getattr(module, UNUSED, ())
    return tuple(found) if isinstance(found, tuple | list) and all(isinstance(each, str) for each in found) else ()


def _check(unused: Sequence[Unused], model: nn.Module) -> None:
    names = [name for name, _ in model.named_parameters()] if unused else []
    for each in unused if names else ():
        if not any(each.covers(name) for name in names):
            modules = [name for name, _ in model.named_modules() if name]
            raise UserError(
                f"{each.pattern!r}, which is declared as unused, covers no parameter of {type(model).__name__}; "
                f"{did_you_mean(each.pattern, [*modules, *names])}"
            )


@contextlib.contextmanager
def calling(model: nn.Module, call: Call, eagerly: bool = True) -> Iterator[None]:
    """Inside, `model(...)` is this call: `forward` is the method, and the setting holds.

    Args:
        model: any module.
        call: what it is called with.
        eagerly: what was compiled runs as it was written; torch.export sees to that itself.

    Raises:
        UserError: the model has no such method or attribute.
    """
    found = [(*_found(model, name), value) for name, value in call.setting.items()]
    swaps = [(owner, name, value) for owner, name, _, value in found]
    if call.method != "forward":
        swaps.append((model, "forward", _found(model, call.method)[2]))
    before = [(owner, name, vars(owner).get(name, _ABSENT)) for owner, name, _ in swaps]
    try:
        for owner, name, value in swaps:
            # Not setattr: nn.Module would register a module or a
            # parameter, and `forward` has to hide the method of the class.
            vars(owner)[name] = value
        with run_eagerly() if eagerly else contextlib.nullcontext():
            yield
    finally:
        for owner, name, value in reversed(before):
            if value is _ABSENT:
                vars(owner).pop(name, None)
            else:
                vars(owner)[name] = value


_ABSENT = object()
KEPT_BY_MODULES = frozenset({*vars(nn.Module()), *vars(nn.Module)} - {"forward"})


def _found(model: nn.Module, name: str) -> tuple[nn.Module, str, Any]:
    path, _, last = name.rpartition(".")
    try:
        owner = model.get_submodule(path)
        return owner, last, getattr(owner, last)
    except AttributeError as error:
        raise UserError(
            f"{type(model).__name__} has no {name!r}, which a Call of example_inputs names; "
            f"{did_you_mean(name, _names(model, path))}; nothing was traced"
        ) from error


def _names(model: nn.Module, path: str) -> list[str]:
    """What a part, or else the network itself, has of its own that a Call may name."""
    modules = dict(model.named_modules(remove_duplicate=False))
    path, part = (path, modules[path]) if path in modules else ("", model)
    names = [*vars(part), *(each for kind in type(part).__mro__ if kind is not nn.Module for each in vars(kind))]
    own = [name for name in names if not name.startswith("_") and name not in KEPT_BY_MODULES]
    return [f"{path}.{name}".lstrip(".") for name in dict.fromkeys(own)] + ([] if path else list(filter(None, modules)))


@contextlib.contextmanager
def callable_by_name(model: nn.Module) -> Iterator[None]:
    """The tracer's own call has an argument `mod`: what a model passes under that name goes by its place inside."""
    kinds = {type(module) for module in model.modules()}
    # The tracer puts a function (mod, *args, **kwargs) in place of Module.__call__, which a model's keyword `mod`
    # collides with. Python looks `__call__` up on the type, so ours is set on the classes; they have none of their own.
    kinds = {kind for kind in kinds if "mod" in _arguments_of(kind) and "__call__" not in vars(kind)}

    def call(module: nn.Module, *arguments: Any, **named: Any) -> Any:
        bound = inspect.signature(module.forward).bind(*arguments, **named)
        return nn.Module.__call__(module, *bound.args, **bound.kwargs)

    try:
        for kind in kinds:
            kind.__call__ = call  # type: ignore[method-assign]
        yield
    finally:
        for kind in kinds:
            del kind.__call__


def _arguments_of(kind: type[nn.Module]) -> tuple[str, ...]:
    forward: Any = next((vars(each)["forward"] for each in kind.__mro__ if "forward" in vars(each)), None)
    return tuple(inspect.signature(forward).parameters) if inspect.isfunction(forward) else ()
