"""A forward pass on fake tensors, recorded: the graph that torch.export gives, in a quarter of the time.

`record`, which gives that graph, or raises `Unrecordable` where the pass does what only torch.export can write down: it
looks at values, exchanges buffers, changes layouts in place, calls higher-order operators. Called by
`compress/graph/trace.py`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._export.utils import _compiling_state_context
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export._trace import _ignore_backend_decomps
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import disable_autocast_cache
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils import _pytree as pytree

from compress.graph.recording.fakes import Unrecordable, fake_input, fakes_of
from compress.graph.recording.recorder import ATEN, Recorder, Recording

KEPT_BY_ALL = frozenset(vars(nn.Module()))


def record(
    model: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any], names: Mapping[str, str]
) -> Recording:
    """Run a model on fake tensors and note its operations.

    Args:
        model: as it was before afterwards.
        arguments: the positional arguments of `forward`; only shapes and types of tensors matter.
        keywords: the named arguments.
        names: every name of a parameter or buffer -> the first name of the same tensor.

    Raises:
        Unrecordable: see above; also where a part of several names is called by another part than those that have it.
            Nothing has changed.
    """
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    recorder, fakes = Recorder(model, fake_mode), fakes_of(model, fake_mode)
    given = pytree.tree_map(functools.partial(fake_input, fake_mode=fake_mode), (arguments, dict(keywords)))
    for name, fake in fakes.items():
        if names[name] == name:
            recorder.made.tensors[recorder.place(fake, name.replace(".", "_"))] = name
    inputs = {recorder.place(leaf, "input"): name for name, leaf in _named_inputs(model, *given)}
    with _same_state(model), _fake_tensors(model, fakes), _seen_calls(recorder), fake_mode, _as_exported(), recorder:
        outputs = model(*given[0], **given[1])
    leaves = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
    recorder.made.results.update(recorder.node_of(leaf) for leaf in leaves)
    _drop_detached(recorder.made)
    taken = {node.name for node in recorder.made.graph.nodes}
    for node, name in inputs.items():
        node.name = node.name if name in taken else name  # shown to people
    return recorder.made


def _named_inputs(
    model: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> list[tuple[str, Tensor]]:
    """The tensors among the inputs by the names of `forward`'s arguments, numbered where one holds several."""
    try:
        bound = inspect.signature(model.forward).bind(*arguments, **keywords).arguments
    except (TypeError, ValueError):  # the call itself will fail, or nothing is known of the function
        bound = {"input": (arguments, keywords)}
    found = []
    for name, value in bound.items():
        leaves = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
        found += [(f"{name}_{number}" if len(leaves) > 1 else name, leaf) for number, leaf in enumerate(leaves)]
    return found


@contextlib.contextmanager
def _as_exported() -> Iterator[None]:
    """What torch.export sets while it traces, for code that asks and for arguments that follow the backends."""
    gradients = torch.is_grad_enabled()
    try:
        with (
            _compiling_state_context(),
            _ignore_backend_decomps(),
            enable_python_dispatcher(),
            fx_traceback.preserve_node_meta(),
            disable_autocast_cache(),
        ):
            yield
    finally:
        torch._C._set_grad_enabled(gradients)


@contextlib.contextmanager
def _fake_tensors(model: nn.Module, fakes: Mapping[str, Tensor]) -> Iterator[None]:
    """Parameters and buffers are fake inside. Raises Unrecordable where the pass exchanged one of them."""
    # stack_weights: put back in reverse, since a part of two names is exchanged twice, the second time for a fake one.
    with _reparametrize_module(model, dict(fakes), tie_weights=True, strict=True, stack_weights=True):
        yield
        own = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        exchanged = len(own) != len(fakes) or any(fakes.get(name) is not tensor for name, tensor in own)
    if exchanged:
        raise Unrecordable("the pass exchanges a parameter or a buffer")


@contextlib.contextmanager
def _same_state(model: nn.Module) -> Iterator[None]:
    """Afterwards modules have what they had before: what the pass left in them is a tensor without numbers."""
    modules = [
        (module, dict(vars(module)), dict(module._parameters), dict(module._buffers), _containers(module))
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for module, before, parameters, buffers, items in modules:
            vars(module).clear()
            vars(module).update(before)
            _fill(module._parameters, parameters)
            _fill(module._buffers, buffers)
            for key, was in items.items():
                _fill(before[key], was)


def _containers(module: nn.Module) -> dict[str, Any]:
    """Copies of the lists and dictionaries that a module's own code keeps."""
    return {
        key: value.copy()
        for key, value in vars(module).items()
        if key not in KEPT_BY_ALL and type(value) in (list, dict)
    }


def _fill(container: Any, items: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(items)
    else:
        container.update(items)


@contextlib.contextmanager
def _seen_calls(recorder: Recorder) -> Iterator[None]:
    """The recorder knows inside which module runs, its hooks included: those run in `__call__`, too."""
    call = nn.Module.__call__

    def seen(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        return recorder.call(module, call, args, kwargs)

    nn.Module.__call__ = seen  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = call  # type: ignore[method-assign]


def _drop_detached(made: Recording) -> None:
    """Nobody reads what torch detaches by itself; torch.export drops it, too. Code may read the size of its own."""
    for node in reversed(made.graph.nodes):
        if (
            node.target is ATEN.detach.default
            and not node.users | (node.meta.get("custom") or {}).keys()
            and node not in made.results
        ):
            made.graph.erase_node(node)
