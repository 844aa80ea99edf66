"""What the source of a model's own classes speaks of: training, gradients, widths.

Torch's own layers are known; what other code may do is judged by the words in it. Called before a model is traced or
compared: whether training mode needs a pass of its own, and whether sizes in the code are worth a trial.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import re
import weakref
from collections.abc import Callable, MutableMapping
from typing import Any

import torch
from torch import nn

from compress.graph.dropout import only_drops
from compress.graph.recording.sources import source_of, tree_of


def is_foreign(module: str) -> bool:
    """Whether the code of a Python module is neither torch's nor this library's."""
    return not f"{module}.".startswith(("torch.", "compress."))


WATCHED: MutableMapping[int, nn.Module] = weakref.WeakValueDictionary()
TRAINING_ASKED: MutableMapping[int, nn.Module] = weakref.WeakValueDictionary()
GRADIENTS_ASKED: MutableMapping[int, nn.Module] = weakref.WeakValueDictionary()
INFERENCE_ASKED: MutableMapping[int, nn.Module] = weakref.WeakValueDictionary()
SHARES_SET: MutableMapping[int, nn.Module] = weakref.WeakValueDictionary()
"""By id, the models that ran under `recording/watch.py`, those of which some code asked for the mode then, and
those whose code set the share that a layer drops."""


def asks_for_gradients(model: nn.Module) -> bool:
    """Whether some code that ran asked whether gradients are wanted; training mode is compared with gradients then."""
    if GRADIENTS_ASKED.get(id(model)) is model:
        return True
    return any("is_grad_enabled" in (_source(cls) or "") for cls in _judged_by_words(model))


def asks_for_inference(model: nn.Module) -> bool:
    """Whether some code may ask whether it runs under `torch.inference_mode()`."""
    if INFERENCE_ASKED.get(id(model)) is model:
        return True
    return any("is_inference" in (_source(cls) or "") for cls in _judged_by_words(model))


def asks_for_training(model: nn.Module) -> bool:
    """Whether some module's own code may compute something else in training mode, such as an auxiliary head.

    torch's layers are known; of every other class the source is searched for the word `training`, unless the class says
    of itself that it is `alike_in_training`. What drops at random is off in every comparison, and no reason. A class
    whose source cannot be had may do anything. Helpers beside the classes are known once they ran: `watched`.
    """
    if any(asked.get(id(model)) is model for asked in (GRADIENTS_ASKED, TRAINING_ASKED, SHARES_SET)):
        return True
    if asks_for_gradients(model):
        return True
    if any(_source(cls) is None for cls in _judged_by_words(model)):
        return True
    if any(_asks(function) for module in model.modules() for function in _functions_of(module)):
        return True
    return any(not only_drops(module) for module in _asking(model))


def dropping(model: nn.Module) -> list[nn.Module]:
    """The modules whose own code speaks of training, and which do nothing but drop at random."""
    return [module for module in _asking(model) if only_drops(module)]


def _asking(model: nn.Module) -> list[nn.Module]:
    classes = {cls for cls in _judged_by_words(model) if _trains_otherwise(cls)}
    return [module for module in model.modules() if not classes.isdisjoint(type(module).__mro__)]


def _functions_of(module: nn.Module) -> list[Any]:
    """Functions that a module keeps, and its hooks."""
    kept = [*vars(module).values(), *module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return [each for each in kept if inspect.isfunction(each) and not each.__module__.startswith("torch.")]


@functools.cache
def _asks(function: Any) -> bool:
    """Whether a function reads the training flag of a module."""
    try:
        return ".training" in source_of(function)
    except (OSError, TypeError):
        return False


def computes_shares(model: nn.Module) -> bool:
    """Whether some code computes the share that a dropout function drops: it may follow the width.

    No values show that in eval mode, no trace: `F.dropout(y, 1 / y.shape[1], self.training)`. Or `self.drop.p = ...`
    in `forward`, which is known once the model ran.
    """
    if SHARES_SET.get(id(model)) is model:
        return True
    own = _judged_by_words(model)
    return any(_computes_share(each) for cls in own for each in (cls, *_called_by(cls)))


@functools.cache
def _computes_share(code: Any) -> bool:
    """Whether a class or a function calls a dropout function with a share that it computes, or has no source."""
    try:
        tree = tree_of(code)
    except (OSError, TypeError, SyntaxError):
        return True
    calls = [call for call in ast.walk(tree) if isinstance(call, ast.Call)]
    given = {each.arg for each in ast.walk(tree) if isinstance(each, ast.arg)}
    given -= {each.id for each in ast.walk(tree) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    return any(not _is_kept(each, given) for call in calls for each in _shares(call))


def _shares(call: ast.Call) -> list[ast.AST]:
    """In a call of a dropout function: what it drops, without its input and its flags."""
    given = call.keywords
    if _called(call) in DROPOUTS:
        given = [ast.keyword("p", call.args[1])] if len(call.args) > 1 else [k for k in given if k.arg == "p"]
    else:
        given = [k for k in given if k.arg == "dropout_p"]
    return [each.value.body if isinstance(each.value, ast.IfExp) else each.value for each in given]


def _is_kept(node: ast.AST, given: set[str]) -> bool:
    """A number, an argument that is not changed, or an attribute of an attribute ... of a name."""
    if isinstance(node, ast.Attribute):
        return isinstance(node.value, ast.Name) or _is_kept(node.value, given)
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id in given)


def _called(call: ast.Call) -> str:
    name: str = getattr(call.func, "attr", getattr(call.func, "id", ""))
    return name


def _calls_what_asks(cls: type) -> bool:
    """Whether a method calls a function beside the class that reads the training flag of the module it is given."""
    return any(_asks(each) or _computes_share(each) for each in _called_by(cls))


def _called_by(cls: type) -> list[Any]:
    """The functions beside a class that its methods call, but for torch's."""
    methods = [each for each in vars(cls).values() if inspect.isfunction(each)]
    called = [each.__globals__.get(name) for each in methods for name in each.__code__.co_names]
    for cell in (cell for each in methods for cell in each.__closure__ or ()):
        with contextlib.suppress(ValueError):  # nothing is in it yet
            called.append(cell.cell_contents)
    return [each for each in called if inspect.isfunction(each) and not each.__module__.startswith("torch.")]


def modes_without_gradients(model: nn.Module) -> list[Callable[[], contextlib.AbstractContextManager[Any]]]:
    """The modes in which some module's own code may compute something else, searched as for `training`."""
    modes = {"grad": torch.no_grad, "inference_mode": torch.inference_mode}
    own = _judged_by_words(model)
    return [mode for word, mode in modes.items() if any(_speaks_of(cls, word) for cls in own)]


def own_classes(model: nn.Module) -> list[type]:
    """Classes of a model's modules, bases included, that are not torch's."""
    classes = {cls for module in model.modules() for cls in type(module).__mro__}
    return [cls for cls in classes if not cls.__module__.startswith(("torch.nn.", "builtins"))]


def _judged_by_words(model: nn.Module) -> list[type]:
    """Without those that are known to compute the same in every mode."""
    return [cls for cls in own_classes(model) if not getattr(cls, "alike_in_training", False)]


@functools.cache
def _source(cls: type) -> str | None:
    try:
        return source_of(cls)
    except (OSError, TypeError):
        return None


def _speaks_of(cls: type, word: str) -> bool:
    source = _source(cls)
    return source is None or word in source


@functools.cache
def _trains_otherwise(cls: type) -> bool:
    """Whether the code speaks of training other than to switch dropout: `F.dropout(x, p, training=self.training)`.

    With a `train` of its own it may switch what it calls as it likes.
    """
    if "train" in vars(cls) or "eval" in vars(cls) or _calls_what_asks(cls) or _computes_share(cls):
        return True
    source = _source(cls) or ""
    if "training" not in source:
        return False
    try:
        tree = tree_of(cls)
    except SyntaxError:
        return True
    flags = {node for node in ast.walk(tree) if _is_flag(node)}
    return bool(flags - {node for call in ast.walk(tree) if isinstance(call, ast.Call) for node in _switches(call)})


def _is_flag(node: ast.AST) -> bool:
    """Whether a node of the code is a name with the word in it, or the word as a text."""
    names = [getattr(node, field, None) for field in ("id", "attr", "arg", "name")]
    return any(isinstance(name, str) and "training" in name for name in names) or (
        isinstance(node, ast.Constant) and node.value == "training"
    )


def _switches(call: ast.Call) -> list[ast.AST]:
    """In a call of a dropout function, `self.training` as its flag, or in `p if self.training else 0.0`."""
    found: list[ast.AST] = []
    given = (
        [*call.args, *call.keywords]
        if _called(call) in DROPOUTS
        else [k for k in call.keywords if k.arg == "dropout_p"]
    )
    for each in given:
        value = each.value if isinstance(each, ast.keyword) else each
        flag: ast.AST = value
        if isinstance(value, ast.IfExp) and isinstance(value.orelse, ast.Constant) and not value.orelse.value:
            flag = value.test
        if isinstance(flag, ast.Attribute) and flag.attr == "training":
            found += [flag, each]
    return found


DROPOUTS = tuple(f"{kind}dropout{n}" for kind in ("", "alpha_", "feature_alpha_") for n in ("", "1d", "2d", "3d"))
"""Functions of torch that do nothing but drop at random."""


WIDTHS = re.compile(
    r"\.((in|out)_(channels|features)|num_features|num_channels|num_parameters|embedding_dim|hidden_size|normalized_shape"
    r"|(weight|bias)\.(shape|size|numel))\b|\bself\.[\w.]+\.(shape|size\(|numel\()|\blen\((\w+\[0\]|[\w.]*(weight|bias))\)"
)
"""Of a layer, of a parameter, and of a tensor by a way that no trace shows."""
GRADIENTS = re.compile(r"register_(post_accumulate_grad_|full_backward_(pre_)?|backward_)?hook\b")


def reads_widths(model: nn.Module) -> bool:
    """Whether some module's own code, but for its constructor, or a hook reads a number of channels that is kept."""
    methods = [
        each
        for cls in own_classes(model)
        for name, each in vars(cls).items()
        if inspect.isfunction(each) and name != "__init__"
    ]
    kept = [each for module in model.modules() for each in _functions_of(module)]
    return any(_has(each, WIDTHS) for each in (*methods, *kept))


def hooks_gradients(model: nn.Module) -> bool:
    """Whether a module has a hook on its gradient, or code that ran may have given tensors one."""
    if asks_for_gradients(model) or any(
        module._backward_hooks or module._backward_pre_hooks for module in model.modules()
    ):
        return True
    return any(_has(cls, GRADIENTS) for cls in own_classes(model))


def hooked(model: nn.Module) -> dict[str, str]:
    """Parameters with a hook on their own gradient -> why they stay: it may hold a mask of their size, or count."""
    return {
        name: f"{name} has a hook on its gradient, which may go by the size: remove the hook"
        for name, parameter in model.named_parameters()
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None)
    }


def hooks_of(model: nn.Module) -> frozenset[int]:
    """The identities of the hooks on modules that are of other code."""
    found = [
        each
        for module in model.modules()
        for each in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]
    return frozenset(id(each) for each in found if is_foreign(getattr(each, "__module__", None) or ""))


@functools.cache
def _has(code: Any, pattern: re.Pattern[str]) -> bool:
    try:
        return pattern.search(source_of(code)) is not None
    except (OSError, TypeError):
        return False


def replaced_buffers(model: nn.Module) -> dict[str, str]:
    """The buffers that forward may replace in a branch, such as a table for another size of image -> why they stay.

    It may make the new one from any numbers, and no trace of the other branch shows which. A buffer that is updated
    from what it was, or interpolated, follows.
    """
    found = []
    for name, module in model.named_modules():
        buffers = {key for key, each in module._buffers.items() if each is not None}
        own = [cls for cls in type(module).__mro__ if not cls.__module__.startswith(("torch.", "builtins"))]
        named = set().union(*(_replaced(cls) for cls in own if buffers))
        found += [f"{name}.{key}".lstrip(".") for key in sorted(buffers & named)]
    return {name: REMADE.format(name) for name in found}


REMADE = "the code may make {} anew in a branch that no trace shows: make it once, in the constructor, or outside"


@functools.cache
def _replaced(cls: type) -> frozenset[str]:
    """Attributes that `forward`, or what it calls of the class, assigns or leaves aside in a branch."""
    methods: dict[str, ast.AST] = {}
    for name in dir(cls):
        with contextlib.suppress(OSError, TypeError, SyntaxError, AttributeError):
            method = inspect.getattr_static(cls, name)
            if inspect.isfunction(method) and not method.__module__.startswith("torch."):
                methods[name] = tree_of(method)
    found: set[str] = set()
    seen: set[tuple[str, bool]] = set()
    waiting = [("forward", False)]
    while waiting:
        name, branched = waiting.pop()
        if name not in methods or (name, branched) in seen:
            continue
        seen.add((name, branched))
        body = methods[name]
        branches = [each for each in ast.walk(body) if isinstance(each, ast.If | ast.IfExp)]
        within = [part for each in branches for part in _parts_of(each)]
        found |= {key for part in ([body] if branched else within) for key in _assigned(part)}
        found |= {key for each in branches for key in _left_aside(each)}
        inside = {each for part in within for each in ast.walk(part)}
        for call in (each for each in ast.walk(body) if isinstance(each, ast.Call)):
            if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
                waiting.append((call.func.attr, branched or call in inside))
    return frozenset(found)


def _parts_of(branch: ast.If | ast.IfExp) -> list[ast.AST]:
    """The statements, or the two values, of which one runs."""
    if isinstance(branch, ast.IfExp):
        return [branch.body, branch.orelse]
    return [*branch.body, *branch.orelse]


def _assigned(code: ast.AST) -> set[str]:
    """Attributes of a name that are assigned or registered there, but not from what they were."""
    found = set()
    for each in ast.walk(code):
        if isinstance(each, ast.Assign | ast.AnnAssign) and each.value is not None:
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            found |= {key for target in targets for key in _written(target)} - _attributes_in(each.value, values=True)
        elif isinstance(each, ast.Call) and _called(each) == "register_buffer" and each.args:
            name = each.args[0]
            found |= {str(name.value)} if isinstance(name, ast.Constant) else set()
    return found


def _written(target: ast.AST) -> list[str]:
    """The attributes that a target of an assignment changes: `self.a, self.b.data, self.c[:, k]` all three."""
    if isinstance(target, ast.Tuple | ast.List):
        return [key for each in target.elts for key in _written(each)]
    if isinstance(target, ast.Subscript) or (isinstance(target, ast.Attribute) and target.attr == "data"):
        return _written(target.value)
    return [target.attr] if isinstance(target, ast.Attribute) else []


def _left_aside(branch: ast.If | ast.IfExp) -> set[str]:
    """Attributes whose size decides whether they are read: `pe = self.pe if fits(self.pe.shape) else made(n)`."""
    ways: list[Any] = (
        [[branch.body], [branch.orelse]] if isinstance(branch, ast.IfExp) else [branch.body, branch.orelse]
    )
    ways = [way for way in ways if way and not isinstance(way[-1], ast.Raise)]
    sized = set()
    for each in ast.walk(branch.test):
        if isinstance(each, ast.Attribute) and each.attr in ("shape", "size", "numel"):
            sized |= _attributes_in(each.value)
        elif isinstance(each, ast.Call) and _called(each) == "len":
            sized |= {key for given in each.args for key in _attributes_in(given)}
    reads = [set().union(*(_attributes_in(each) for each in way)) for way in ways]
    return {key for key in sized if any(key in each for each in reads) and not all(key in each for each in reads)}


def _attributes_in(code: ast.AST, values: bool = False) -> set[str]:
    """Names of attributes that are read; of those whose `values` are, and not just their shape, type or device."""
    found = {code.attr} if isinstance(code, ast.Attribute) else set()
    if values and isinstance(code, ast.Attribute) and code.attr in DESCRIBE:
        return found
    if values and isinstance(code, ast.Call) and _called(code) == "len":
        return found
    only_looks = values and isinstance(code, ast.Call) and _called(code) in LOOKS
    inside = [code.func] if only_looks and isinstance(code, ast.Call) else ast.iter_child_nodes(code)
    return found.union(*(_attributes_in(each, values) for each in inside))


DESCRIBE = frozenset({"shape", "size", "numel", "dim", "ndim", "device", "dtype", "new_tensor"})
LOOKS = frozenset({"to", "type", "type_as", "expand_as", "view_as", "reshape_as"})
"""Calls whose arguments say how the result looks, and not what is in it."""
