"""The channel graph of a network as it is now.

`CurrentGraph`, one for each scheduler: traced when a part first asks for it, kept until thinning changes the network.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.distributed import several_processes
from compress.errors import UserError
from compress.graph.calls import Arguments, Call, by_name, calls_of
from compress.graph.channels import ChannelGraph
from compress.graph.trace import ExampleInputs
from compress.selectors import unwrapped
from compress.thinning.proof.inputs import are_real, real_inputs
from compress.thinning.reasons import Reasons
from compress.thinning.trials.trial import prunable_graph

logger = logging.getLogger("compress")

Seen = list[Any] | dict[str, Any]


class CurrentGraph:
    """Traces a network when it is asked, and again after `forget`.

    Args:
        model: wrapped ones (DataParallel, torch.compile) are fine; the network inside is traced.
        example_inputs: a tensor, the tuple of `forward`'s arguments, or a list of calls (`compress/graph/calls.py`);
            None takes the first batch that the network is called with once `watch` was called.

    Attributes:
        inputs: the example inputs, None as long as there are none.
        batch: some samples of the first batch seen, to prove a thinning on: example inputs may be nothing but a shape.
            None as long as `watch` has seen none, and in several processes, which must all come to one verdict.
        reasons: why the pruners mask whole units of the network as it is now; see reasons.py.
    """

    def __init__(self, model: nn.Module, example_inputs: ExampleInputs | None = None) -> None:
        self.model = model
        self.inputs = example_inputs
        self.batch: ExampleInputs | None = None
        self.reasons: Reasons = {}
        self._graphs: dict[bool, ChannelGraph] = {}
        self._refusal: str | None = None
        self._told: set[str] = set()
        self._seen: Seen | None = None
        self._looked = False
        self._watching: torch.utils.hooks.RemovableHandle | None = None

    @property
    def network(self) -> nn.Module:
        """The network inside its wrappings."""
        return unwrapped(self.model)

    def get(self, allow_inexact: bool = False) -> ChannelGraph:
        """The graph.

        Raises:
            UserError: there are no example inputs yet, or the network cannot be traced; it gives the reason.
        """
        if allow_inexact in self._graphs:
            return self._graphs[allow_inexact]
        if self.inputs is None:
            raise UserError("no example_inputs were given and no batch was seen yet, so the network cannot be traced")
        if self._refusal is not None:
            raise UserError(self._refusal)
        try:
            self._graphs[allow_inexact] = prunable_graph(self.network, self.inputs, allow_inexact)
        except UserError as e:
            self._refusal = str(e)
            raise
        for note in self._graphs[allow_inexact].notes:
            self.tell_once(note)
        return self._graphs[allow_inexact]

    def proved_on(self) -> ExampleInputs:
        """The first batch in place of the first call of the example inputs, then their other calls.

        Raises:
            UserError: there are no example inputs yet.
        """
        if self.inputs is None:
            raise UserError("no example_inputs were given and no batch was seen yet")
        calls = calls_of(self.inputs)
        if self.batch is None:
            return self.inputs
        if len(calls) == 1 and calls[0].is_plain:
            return self.batch
        plain = next((number for number, call in enumerate(calls) if call.is_plain), None)
        return [Call(self.batch), *(call for number, call in enumerate(calls) if number != plain)]

    def take(self, graph: ChannelGraph) -> None:
        """Takes a graph of the network as it is now that was made elsewhere."""
        self._graphs[False] = graph

    def forget(self) -> None:
        """The network has changed: what was traced no longer holds."""
        self._graphs.clear()
        self.reasons.clear()
        self._refusal = None

    def watch(self) -> None:
        """Keeps the first batch that the network is called with: what a proof runs on, and missing example inputs."""
        if (self.inputs is None or not self._looked) and self._watching is None:
            look = torch.compiler.disable(self._keep)
            self._watching = self.model.register_forward_pre_hook(look, with_kwargs=True)

    def unwatch(self) -> None:
        """Stops waiting for a batch."""
        if self._watching is not None:
            self._watching.remove()
            self._watching = None

    def state_dict(self) -> Seen | None:
        """The inputs that were seen, by shape and type, for a resumed run; None if they were given."""
        return self._seen

    def load_state_dict(self, state: Seen | None) -> None:
        """Restores what `state_dict` gave."""
        if state is not None and self.inputs is None:
            self.inputs = _each(
                state, lambda it: torch.zeros(it["shape"], dtype=it["dtype"]) if isinstance(it, dict) else it
            )
            self._seen = state

    def tell_once(self, text: str, level: int = logging.WARNING) -> None:
        """Logs a sentence, unless it was logged before."""
        if text not in self._told:
            self._told.add(text)
            logger.log(level, "%s", text)

    def _keep(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any] | None = None) -> None:
        # None: seen within this very call, as a hook before this one has run the network itself; a trace has no values
        if self._watching is None or torch.compiler.is_exporting():
            return
        self._looked = True
        inputs = by_name(self.network, arguments, named or {})
        if not several_processes() and are_real(inputs):
            with torch.inference_mode(False):  # what is kept of an inference-mode pass could not be traced
                self.batch = pytree.tree_map(
                    lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, real_inputs(inputs)
                )
        if self.inputs is None:
            self.inputs = _each(inputs, lambda it: _traceable(it) if isinstance(it, Tensor) else it)
            seen = _each(
                inputs, lambda it: {"shape": list(it.shape), "dtype": it.dtype} if isinstance(it, Tensor) else it
            )
            self._seen = seen if isinstance(seen, dict) else list(seen)
        self.unwatch()


def _each(inputs: Arguments | Seen, change: Callable[[Any], Any]) -> Arguments:
    """The arguments of a call with each of them changed."""
    if isinstance(inputs, dict):
        return {name: change(value) for name, value in inputs.items()}
    return tuple(map(change, inputs))


def _traceable(tensor: Tensor) -> Tensor:
    """Detached; a copy of what was made in inference mode, which a trace could not use."""
    if not tensor.is_inference():
        return tensor.detach()
    with torch.inference_mode(False):
        return tensor.clone()
