"""Recurrent layers that quantize: the maths of LSTM, GRU and RNN layers and cells, one step after the other.

What is rounded where, and the loop. A hidden state is rounded where it is made, so that the next step, the next layer
and the layer's output read the same numbers; a state that the caller gives is rounded too. Cell states and gates stay
float.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from compress.parameters import widened
from compress.quantization.fake_quant import ActivationQuantizer

State = tuple[Tensor, ...]  # hidden, and of an LSTM the cell
Step = Callable[[Tensor, Tensor, State], State]  # gates from the input, gates from the hidden state, state -> state


def lstm_step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    """(batch, 4 hidden) twice -> the next hidden and cell state; the order of gates is torch's.

    In half precision a cell would stop moving, and a gate of 0.999 be 1: both are in float32 there.
    """
    i, f, g, o = widened(from_input + from_hidden).chunk(4, -1)
    cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    hidden = o.sigmoid() * cell.tanh()
    return hidden if hidden.dtype == from_input.dtype else hidden.to(from_input.dtype), cell


def gru_step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    """(batch, 3 hidden) twice -> the next hidden state."""
    reset, update, new = from_input.chunk(3, -1)
    its_reset, its_update, its_new = from_hidden.chunk(3, -1)
    z = (update + its_update).sigmoid()
    # The reset gate multiplies W_hn h + b_hn, as in torch and cuDNN; in Cho et al. 2014 it multiplies h.
    n = (new + (reset + its_reset).sigmoid() * its_new).tanh()
    return ((1 - z) * n + z * state[0],)


def tanh_step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    """(batch, hidden) twice -> the next hidden state."""
    return ((from_input + from_hidden).tanh(),)


def relu_step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    """(batch, hidden) twice -> the next hidden state."""
    return ((from_input + from_hidden).relu(),)


STEPS: dict[str, Step] = {"LSTM": lstm_step, "GRU": gru_step, "RNN_TANH": tanh_step, "RNN_RELU": relu_step}
FUSED: dict[str, Any] = {
    "LSTM": torch._VF.lstm, "GRU": torch._VF.gru, "RNN_TANH": torch._VF.rnn_tanh, "RNN_RELU": torch._VF.rnn_relu,
}  # fmt: skip


def is_recurrent(module: Any) -> bool:
    """Whether a module is an LSTM, GRU or RNN layer or cell."""
    return isinstance(module, nn.RNNBase | nn.RNNCellBase)


def hidden_slots(module: nn.Module) -> tuple[str, ...]:
    """The slots of the hidden states: one a layer and direction; of a cell one."""
    if isinstance(module, nn.RNNBase):
        return tuple(f"hidden_{suffix}_quantizer" for suffix in suffixes(module))
    return ("hidden_quantizer",) if isinstance(module, nn.RNNCellBase) else ()


def has_bounded_state(module: nn.Module) -> bool:
    """Whether the hidden states lie in (-1, 1), as a tanh leaves them: not behind a projection, not with ReLU."""
    return not getattr(module, "proj_size", 0) and getattr(module, "nonlinearity", "tanh") == "tanh"


def suffixes(layer: nn.RNNBase) -> list[str]:
    """`l0`, `l0_reverse`, `l1`, ...: one a layer and direction, in the order of execution."""
    ends = ("", "_reverse") if layer.bidirectional else ("",)
    return [f"l{i}{end}" for i in range(layer.num_layers) for end in ends]


class QuantRecurrentLayer:
    """What quantized LSTM, GRU and RNN layers have in common; mixed into `QuantLayer` and the float layer's class.

    With rounded hidden states it is a loop over the steps; with rounded weights alone torch's own kernel.
    """

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """As the float layer's: a tensor or a PackedSequence, batched or not -> output and last states."""
        own: Any = self
        if isinstance(input, PackedSequence):
            return self._packed(input, hx)
        if input.dim() not in (2, 3):
            raise ValueError(f"{own.mode}: expected an input of 2 or 3 dimensions, got {input.dim()}")
        batched = input.dim() == 3
        if not batched:
            input = input.unsqueeze(0 if own.batch_first else 1)
        batch = input.shape[0 if own.batch_first else 1]
        self._each_hidden("begin_sequence")
        states = self._states(input, batch, hx, batched)
        own.check_forward_args(input, states if own.mode == "LSTM" else states[0], None)
        input = own.quantized_input(input)
        if self._fuses():
            output, *last = FUSED[own.mode](input, self._given(states), *self._settings(own.batch_first))
        else:
            sequence = input.transpose(0, 1) if own.batch_first else input
            outputs, last = self._layers(sequence, [batch] * sequence.shape[0], states)
            output = torch.stack(outputs, 1 if own.batch_first else 0)
        self._each_hidden("end_sequence")
        if batched:
            return output, self._returned(last)
        return output.squeeze(0 if own.batch_first else 1), self._returned([each.squeeze(1) for each in last])

    def _packed(self, packed: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        own: Any = self
        data, sizes, order, back = packed
        self._each_hidden("begin_sequence")
        states = self._states(data, int(sizes[0]), hx, True)
        if order is not None:
            states = tuple(each.index_select(1, order) for each in states)
        data = own.quantized_input(data)
        if self._fuses():
            output, *last = FUSED[own.mode](data, sizes, self._given(states), *self._settings())
        else:
            outputs, last = self._layers(data, sizes.tolist(), states)
            output = torch.cat(outputs)
        self._each_hidden("end_sequence")
        last = last if back is None else [each.index_select(1, back) for each in last]
        return PackedSequence(output, sizes, order, back), self._returned(last)

    def _each_hidden(self, call: str) -> None:
        for slot in hidden_slots(self):  # type: ignore[arg-type]
            quantizer = getattr(self, slot)
            if isinstance(quantizer, ActivationQuantizer):
                getattr(quantizer, call)()

    def _states(self, input: Tensor, batch: int, hx: Any, batched: bool) -> State:
        """The states to begin with, each (layers x directions, batch, size), the hidden ones rounded."""
        own: Any = self
        if hx is None:
            count = own.num_layers * (2 if own.bidirectional else 1)
            hidden = input.new_zeros(count, batch, own.proj_size or own.hidden_size)
            return (hidden, input.new_zeros(count, batch, own.hidden_size)) if own.mode == "LSTM" else (hidden,)
        states = tuple(hx) if own.mode == "LSTM" else (hx,)
        if any(each.dim() != (3 if batched else 2) for each in states):
            raise RuntimeError(
                f"{own.mode}: the states of a {'batched' if batched else 'not batched'} input have "
                f"{3 if batched else 2} dimensions, given {[each.dim() for each in states]}"
            )
        states = tuple(each if batched else each.unsqueeze(1) for each in states)
        given = zip(states[0].unbind(0), suffixes(own), strict=True)
        return torch.stack([self._rounded(each, suffix) for each, suffix in given]), *states[1:]

    def _fuses(self) -> bool:
        """Whether torch's own kernel computes the layer; it has no place for rounding, and no exporter writes it."""
        own: Any = self
        free = all(getattr(own, slot) is None for slot in hidden_slots(own))
        return free and not torch.compiler.is_exporting()

    def _settings(self, *more: bool) -> tuple[Any, ...]:
        """What torch's kernels take behind the states."""
        own: Any = self
        weights = [self._value(name) for name in own._flat_weights_names]
        return (weights, own.bias, own.num_layers, own.dropout, own.training, own.bidirectional, *more)

    def _given(self, states: State) -> State | Tensor:
        return states if len(states) == 2 else states[0]

    def _returned(self, states: Sequence[Tensor]) -> State | Tensor:
        return tuple(states) if len(states) == 2 else states[0]

    def _layers(self, sequence: Any, sizes: list[int], states: State) -> tuple[list[Tensor], list[Tensor]]:
        """The loop. `sequence`: (steps, batch, features), or packed (rows, features); `sizes`: rows of each step."""
        own: Any = self
        last: list[State] = []
        directions = 2 if own.bidirectional else 1
        steps = _steps_of(sequence) if sequence.dim() == 3 else list(sequence.split(sizes))
        for layer in range(own.num_layers):
            if layer:
                steps = self._dropped(steps)
            ways = []
            for direction in range(directions):
                place = layer * directions + direction
                state = tuple(each[place] for each in states)
                outputs, end = self._one_way(steps, state, suffixes(own)[place], bool(direction))
                ways.append(outputs)
                last.append(end)
            steps = [torch.cat(each, -1) for each in zip(*ways, strict=True)] if directions == 2 else ways[0]
        return steps, [torch.stack(each) for each in zip(*last, strict=True)]

    def _dropped(self, steps: list[Tensor]) -> list[Tensor]:
        """Dropout between layers, as torch's: on the outputs of all layers but the last."""
        own: Any = self
        if not own.dropout or not own.training:
            return steps
        return _on_all(steps, lambda rows: functional.dropout(rows, own.dropout, True))

    def _one_way(self, steps: list[Tensor], state: State, suffix: str, reverse: bool) -> tuple[list[Tensor], State]:
        """One layer in one direction: the rounded hidden state of each step, in order, and the last states."""
        own: Any = self
        weight, hidden_weight = self._value(f"weight_ih_{suffix}"), self._value(f"weight_hh_{suffix}")
        bias, hidden_bias = (self._value(f"bias_{part}_{suffix}") if own.bias else None for part in ("ih", "hh"))
        projection = self._value(f"weight_hr_{suffix}") if own.proj_size else None
        # One product for all steps; only what depends on the state before has to wait for it.
        from_input = _on_all(steps, lambda rows: functional.linear(rows, weight, bias))
        found: list[Tensor] = []
        for gates in from_input[::-1] if reverse else from_input:
            count = gates.shape[0]
            # Packed rows are sorted by length, longest first: a step with `count` rows has
            # the first ones. The others keep their state: forwards they have ended, and it
            # is their last one; in reverse they have not begun, and it is their first.
            whole = count == state[0].shape[0]
            now = state if whole else tuple(each[:count] for each in state)
            hidden, *cell = STEPS[own.mode](gates, functional.linear(now[0], hidden_weight, hidden_bias), now)
            if projection is not None:
                hidden = functional.linear(hidden, projection)
            hidden = self._rounded(hidden, suffix)
            found.append(hidden)
            new = (hidden, *cell)
            state = new if whole else tuple(torch.cat([n, old[count:]]) for n, old in zip(new, state, strict=True))
        return found[::-1] if reverse else found, state

    def _rounded(self, hidden: Tensor, suffix: str) -> Tensor:
        quantizer = getattr(self, f"hidden_{suffix}_quantizer")
        return hidden if quantizer is None else quantizer(hidden)

    def _value(self, name: str) -> Tensor:
        own: Any = self
        return own.quantized_weight(name) if name.startswith("weight") else own.quantized_bias(name)


def _on_all(steps: list[Tensor], function: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """A function of rows, called once for all steps; packed steps differ in their number of rows."""
    sizes = [each.shape[0] for each in steps]
    if all(size == sizes[0] for size in sizes):
        return _steps_of(function(torch.stack(steps)))
    return list(function(torch.cat(steps)).split(sizes))


def _steps_of(sequence: Tensor) -> list[Tensor]:
    """The steps of (steps, batch, features); files get a plain operation each, for which autograd is slow."""
    if torch.compiler.is_exporting():
        return [sequence[i] for i in range(sequence.shape[0])]
    return list(sequence.unbind(0))


class QuantRecurrentCell:
    """What quantized LSTM, GRU and RNN cells have in common; mixed into `QuantLayer` and the float cell's class."""

    mode: ClassVar[str]

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """(batch, features) or (features,) -> the next state, of an LSTM a pair."""
        own: Any = self
        name = "RNN_RELU" if getattr(own, "nonlinearity", "") == "relu" else self.mode
        rows = own.quantized_input(input)
        zeros = rows.new_zeros(*rows.shape[:-1], own.hidden_size)
        if hx is None:
            state: State = (zeros, zeros) if name == "LSTM" else (zeros,)
        else:
            state = tuple(hx) if name == "LSTM" else (hx,)
            state = (self._rounded(state[0]), *state[1:])
        bias, hidden_bias = (own.quantized_bias(f"bias_{part}") if own.bias else None for part in ("ih", "hh"))
        gates = functional.linear(rows, own.quantized_weight("weight_ih"), bias)
        from_hidden = functional.linear(state[0], own.quantized_weight("weight_hh"), hidden_bias)
        hidden, *cell = STEPS[name](gates, from_hidden, state)
        hidden = self._rounded(hidden)
        return (hidden, *cell) if cell else hidden

    def _rounded(self, hidden: Tensor) -> Tensor:
        quantizer = getattr(self, "hidden_quantizer")  # noqa: B009, registered by name
        return hidden if quantizer is None else quantizer(hidden)
