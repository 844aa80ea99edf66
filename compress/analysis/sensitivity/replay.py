"""Measuring by replay: what precedes the changed weight is computed once and used again.

`ReplayMeter`, and what it keeps of each batch. Weights are visited in the order of execution; with each, every batch
moves its kept values forward to that weight's boundary, so that all boundaries together cost one forward pass, and
each level only the operations behind the weight. A batch whose values would exceed the memory allowed keeps nothing
and is computed from its inputs.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from compress.analysis.sensitivity.changes import Subject
from compress.analysis.sensitivity.evaluation import Evaluation, as_metrics, evaluating
from compress.analysis.sensitivity.meter import Meter, Metrics, PlainMeter, in_place, same_state
from compress.analysis.sensitivity.program import Piece, Program, Values, memory
from compress.errors import UserError
from compress.graph.calls import run_on
from compress.graph.trace import as_arguments

logger = logging.getLogger("run")
TOLERANCE = 1e-4  # of the largest output: what float rounding may move
MOST_PROGRAMS = 16  # shapes of inputs that are traced; batches of further shapes run the network itself


def choose_meter(model: nn.Module, test_func: Any, subjects: Sequence[Subject], cache_bytes: int) -> Meter:
    """The fast way where it is possible, else the plain one, saying why."""
    if not isinstance(test_func, Evaluation):
        return PlainMeter(model, test_func)
    try:
        return ReplayMeter(model, test_func, subjects, cache_bytes)
    except Exception as e:  # any network's code runs here, and torch's own on what it was not made for
        why = str(e) if isinstance(e, UserError) else f"{type(e).__name__}: {e}".strip().splitlines()[0]
        logger.warning("the sensitivity analysis runs the whole network each time: %s", why)
        return PlainMeter(model, test_func)


@dataclass
class Route:
    """What one program does for one weight.

    Attributes:
        keep: nodes whose values are kept for this weight and later ones.
        fixed: the operations without inputs that change with the weight: state -> values; None when there are none.
        rest: from those of the kept values that do not change with the weight to the output.
        forward: for each set of values held before, the piece that leads from them to `keep`.
    """

    keep: frozenset[Node]
    fixed: Piece | None
    rest: Piece
    forward: dict[frozenset[Node], Piece] = field(default_factory=dict)


@dataclass
class Batch:
    """One batch's inputs and the values kept of it.

    Attributes:
        inputs: as the evaluation gives them.
        program: of its shapes; None where the network itself is run.
        start: the values of the input nodes.
        kept: values of earlier operations.
    """

    inputs: Any
    program: Program | None
    start: Values
    kept: Values = field(default_factory=dict)


class ReplayMeter(Meter):
    """Measures by replay.

    Args:
        model: the network.
        evaluation: inputs and metrics.
        subjects: the weights that will be changed.
        cache_bytes: most memory for kept values.

    Raises:
        UserError: the network cannot be traced, or the graph does not compute what the network does.
    """

    def __init__(self, model: nn.Module, evaluation: Evaluation, subjects: Sequence[Subject], cache_bytes: int) -> None:
        self.model, self.evaluation, self.cache_bytes = model, evaluation, cache_bytes
        self.batches = _batches(model, evaluation)
        self.programs = list({id(b.program): b.program for b in self.batches if b.program is not None}.values())
        self._ordered = sorted(subjects, key=lambda each: self.programs[0].place(*each.parameters.values()))
        self._fixed = {id(program): _fixed_values(program) for program in self.programs}
        self._routes: dict[int, dict[str, Route]] = {}
        self._at: Subject | None = None
        self._dense = self._verified()
        self._check_changed()
        self._routes = {id(program): self._plan(program) for program in self.programs}

    def order(self, subjects: Sequence[Subject]) -> list[Subject]:
        """The order of execution."""
        wanted = {each.name for each in subjects}
        return [each for each in self._ordered if each.name in wanted]

    def dense(self) -> Metrics:
        """Measured by the network itself."""
        return dict(self._dense)

    @torch.inference_mode()
    def changed(self, subject: Subject, value: Tensor, others: Mapping[str, Tensor] | None = None) -> Metrics:
        """The operations behind the weight, from the kept values."""
        if subject is not self._at:
            self._move_to(subject)
        with in_place(subject.parameters, {subject.name: value, **(others or {})}):
            return as_metrics(self.evaluation.measure(self._outputs(subject)))

    def _outputs(self, subject: Subject) -> Iterator[Any]:
        fixed = {id(program): self._changed_fixed(program, subject) for program in self.programs}
        for batch in self.batches:
            if batch.program is None:
                yield self._plain_output(batch)
                continue
            values = {**fixed[id(batch.program)], **batch.start, **batch.kept}
            route = self._routes[id(batch.program)][subject.name]
            yield _handed_out(_run(batch.program, route, values), values.values())

    def _plain_output(self, batch: Batch) -> Any:
        """What the network itself gives; see `_handed_out`."""
        state = [tensor for program in self.programs for tensor in program.state.values()]
        own = [*self.model.parameters(), *self.model.buffers(), *state]
        return _handed_out(_plainly(self.model, batch.inputs), own)

    def _changed_fixed(self, program: Program, subject: Subject) -> Values:
        """State, and what depends on nothing else, with the changed weight in it."""
        values = self._fixed[id(program)]
        piece = self._routes[id(program)][subject.name].fixed
        return values if piece is None else {**values, **piece(values)}

    def _move_to(self, subject: Subject) -> None:
        """Moves every batch's kept values to a weight's boundary, as long as there is memory."""
        self._at, used = subject, 0
        for batch in self.batches:
            if batch.program is None:
                continue
            route = self._routes[id(batch.program)][subject.name]
            batch.kept = self._moved(batch, route)
            used += (size := _bytes(batch.kept))
            if used > self.cache_bytes:
                batch.kept = {}
                used -= size

    def _moved(self, batch: Batch, route: Route) -> Values:
        assert batch.program is not None
        held = frozenset(batch.kept)
        if held not in route.forward:
            fixed = self._fixed[id(batch.program)]
            route.forward[held] = batch.program.piece(route.keep, {*held, *fixed})
        return route.forward[held]({**self._fixed[id(batch.program)], **batch.start, **batch.kept})

    def _plan(self, program: Program) -> dict[str, Route]:
        """A route for each weight; what a later weight reads is kept from the first one on that has it."""
        dirty = {each.name: program.dirty(*each.parameters.values()) for each in self._ordered}
        borders = {key: frozenset(program.boundary(nodes)) for key, nodes in dirty.items()}
        routes: dict[str, Route] = {}
        seen: frozenset[Node] = frozenset()
        keys = [each.name for each in self._ordered]
        for place, key in enumerate(keys):
            later = frozenset().union(*(borders[other] for other in keys[place + 1 :]))
            keep = borders[key] | (seen & later)
            seen |= keep
            routes[key] = _route(program, keep, dirty[key])
        return routes

    @torch.inference_mode()
    def _verified(self) -> Metrics:
        """The dense metrics, by the network itself; the graph's outputs are compared with its on the way."""
        return as_metrics(self.evaluation.measure(self._compared()))

    def _compared(self) -> Iterator[Any]:
        for batch in self.batches:
            own = self._plain_output(batch)
            if batch.program is not None:
                values = {**self._fixed[id(batch.program)], **batch.start}
                _compare(own, batch.program.output(batch.program.whole(values)))
            yield own

    @torch.inference_mode()
    def _check_changed(self) -> None:
        """Refuses a graph that is right for the weights as they are only, such as with a value taken off them once."""
        parameters = {name: each for subject in self._ordered for name, each in subject.parameters.items()}
        shaken = {name: _shaken(each.detach()) for name, each in parameters.items()}
        for program in self.programs:
            batch = next(each for each in self.batches if each.program is program)
            with in_place(parameters, shaken):
                given = program.output(program.whole({**_fixed_values(program), **batch.start}))
                _compare(_plainly(self.model, batch.inputs), given, "with changed weights ")


def _shaken(weight: Tensor) -> Tensor:
    """Each element another one, by a quarter of what they are on average at most."""
    size = weight.abs().mean() if weight.any() else weight.new_tensor(0.01)
    return weight + size / 4 * torch.arange(weight.numel(), device=weight.device).cos().reshape(weight.shape)


def _route(program: Program, keep: frozenset[Node], dirty: set[Node]) -> Route:
    changing = dirty & program.fixed
    wanted = {node for node in changing if any(user not in program.fixed for user in node.users)}
    constant = program.fixed - changing
    piece = program.piece(wanted, constant) if wanted else None
    # Kept for a later weight may be what changes with this one: its dense value must not be read here.
    return Route(keep, piece, program.piece(program.results, {*(keep - dirty), *program.fixed}))


def _run(program: Program, route: Route, values: Values) -> Any:
    """The network's output; a batch that kept nothing runs everything."""
    if route.keep <= values.keys():
        return program.output(route.rest(values))
    return program.output(program.whole(values))


def _handed_out(output: Any, ours: Iterable[Any]) -> Any:
    """An output that its receiver may write in: what shares memory with values of ours is copied.

    Tensors of it that share memory with each other do so afterwards.
    """
    held = {memory(value) for value in ours if isinstance(value, Tensor)}
    copied: dict[int, Any] = {}

    def of_its_own(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or (key := memory(leaf)) not in held:
            return leaf
        if leaf.layout is not torch.strided or leaf.is_conj() or leaf.is_neg():
            return leaf.clone()
        if key not in copied:
            copied[key] = leaf.untyped_storage().clone()
        place = (leaf.storage_offset(), leaf.shape, leaf.stride())
        return torch.empty(0, dtype=leaf.dtype, device=leaf.device).set_(copied[key], *place)

    return pytree.tree_map(of_its_own, output)


def _batches(model: nn.Module, evaluation: Evaluation) -> list[Batch]:
    """The batches, each with the program of its shapes."""
    programs: dict[Any, Program] = {}
    batches = []
    for inputs in evaluation.inputs:
        shapes = _shapes(inputs)
        if shapes not in programs and len(programs) < MOST_PROGRAMS:
            programs[shapes] = Program(model, inputs)
        program = programs.get(shapes)
        batches.append(Batch(inputs, program, program.flat_inputs(inputs) if program else {}))
    if not batches:
        raise UserError("the evaluation has no inputs")
    return batches


@torch.inference_mode()
def _fixed_values(program: Program) -> Values:
    """The state and every operation that depends on nothing else, computed once."""
    return {**program.state, **program.piece(program.fixed, set())(dict(program.state))}


def _plainly(model: nn.Module, inputs: Any) -> Any:
    """The network itself, in evaluation mode; parameters that a hook of its replaces are its own again afterwards."""
    with same_state(model), evaluating(model):
        return run_on(model, inputs)


def _compare(own: Any, replayed: Any, when: str = "") -> None:
    for one, other in zip(pytree.tree_leaves(own), pytree.tree_leaves(replayed), strict=True):
        if not isinstance(one, Tensor) or not one.numel():
            continue
        if one.shape != other.shape:
            raise UserError(
                f"{when}its graph gives outputs of shape {tuple(other.shape)}, the network {tuple(one.shape)}"
            )
        size, gap = float(one.abs().max()), float((one - other).abs().max())
        if not gap <= TOLERANCE * max(size, 1e-12) and not torch.equal(one, other):
            raise UserError(f"{when}its graph computes something else: outputs of up to {size:.2g} differ by {gap:.2g}")


def _shapes(inputs: Any) -> Any:
    leaves = pytree.tree_leaves(as_arguments(inputs))
    return tuple((tuple(e.shape), e.dtype, e.device) if isinstance(e, Tensor) else repr(e) for e in leaves)


def _bytes(values: Values) -> int:
    """Memory of tensors; those that share one count it each."""
    return sum(e.numel() * e.element_size() for e in pytree.tree_leaves(list(values.values())) if isinstance(e, Tensor))
