"""Runs with a quantized recurrent layer: killed and resumed to the bit, in two processes, thinned before it."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from compress.config import dict_config
from compress.errors import ScheduleError
from compress.quantization.convert import structure_of
from compress.quantization.modules.layers import QuantLayer

STEPS = 2
QUANTIZERS = {
    "range": {"class": "QuantAwareTrainRangeLinearQuantizer", "bits_weights": 4, "bits_activations": 8},
    "pact": {"class": "PACTQuantizer", "bits_weights": 4, "bits_activations": 8},
}


class Signal(nn.Module):
    """(batch, 2, steps) -> scores: a convolution, a recurrent layer over the steps, a classifier."""

    def __init__(self, kind: Any = nn.LSTM, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.relu, self.conv2 = nn.Conv1d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 4, 1)
        self.rnn, self.head = kind(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.conv2(self.relu(self.conv(x))).transpose(1, 2))[0][:, -1])


def data(number: int) -> Tensor:
    return torch.randn(4, 2, 6, generator=torch.Generator().manual_seed(number))


def schedule_of(quantizer: str, *more: Any, first: int = 1, **sections: Any) -> dict[str, Any]:
    policy = {"quantizer": {"instance_name": "q"}, "starting_epoch": first, "ending_epoch": 3, "frequency": 1}
    return {"version": 1, "quantizers": {"q": QUANTIZERS[quantizer]}, **sections, "policies": [policy, *more]}


class Loop:
    """A network, its optimizer and its scheduler."""

    def __init__(self, schedule: dict[str, Any], net: Signal, wrapped: nn.Module | None = None) -> None:
        self.net, self.model = net, wrapped or net
        self.optimizer = torch.optim.Adam(self.net.parameters(), 0.01)
        self.scheduler = dict_config(self.model, self.optimizer, schedule, data(0))

    def train(self, first: int, last: int, rank: int = 0) -> None:
        """The minibatches `first` to `last` (exclusive) of the whole run."""
        for number in range(first, last):
            epoch, step = divmod(number, STEPS)
            if step == 0:
                self.scheduler.on_epoch_begin(epoch, self.optimizer)
            self.scheduler.on_minibatch_begin(epoch, step, STEPS, self.optimizer)
            loss = self.model(data(10 * number + rank)).square().mean()
            loss = self.scheduler.before_backward_pass(epoch, step, STEPS, loss, self.optimizer)
            self.optimizer.zero_grad()
            loss.backward()
            self.scheduler.before_parameter_optimization(epoch, step, STEPS, self.optimizer)
            self.optimizer.step()
            self.scheduler.on_minibatch_end(epoch, step, STEPS, self.optimizer)
            if step == STEPS - 1:
                self.scheduler.on_epoch_end(epoch, self.optimizer)

    def resumed(self, schedule: dict[str, Any], net: Signal) -> "Loop":
        """Another loop that has read what this one has saved."""
        file, again = io.BytesIO(), Loop(schedule, net)
        parts = (self.scheduler, self.net, self.optimizer)
        torch.save([part.state_dict() for part in parts], file)
        file.seek(0)
        states = torch.load(file, weights_only=True)
        for part, state in zip((again.scheduler, again.net, again.optimizer), states, strict=True):
            part.load_state_dict(state)
        return again


@pytest.mark.parametrize(("kind", "quantizer"), [(nn.LSTM, "range"), (nn.GRU, "pact")])
def test_a_resumed_run_is_the_same_run(kind: Any, quantizer: str) -> None:
    """Killed inside quantization, and after it is frozen."""
    schedule = schedule_of(quantizer)
    whole = Loop(schedule, Signal(kind))
    whole.train(0, 4 * STEPS)
    assert isinstance(whole.net.rnn, QuantLayer)
    for kill in (STEPS + 1, 3 * STEPS + 1):
        first = Loop(schedule, Signal(kind))
        first.train(0, kill)
        second = first.resumed(schedule, Signal(kind, seed=5))
        second.train(kill, 4 * STEPS)
        for key, value in whole.net.state_dict().items():
            assert torch.equal(value, second.net.state_dict()[key]), f"{key} differs when killed after {kill}"


def test_filters_leave_before_a_recurrent_layer_is_quantized() -> None:
    """Thinned in the epoch before, the run resumes to the bit; thinning once it is quantized is refused."""
    pruner = {"class": "L1RankedStructureParameterPruner", "group_type": "Filters", "desired_sparsity": 0.5}
    parts = {"pruners": {"p": {**pruner, "weights": ["conv.weight"]}}, "extensions": {"t": {"class": "FilterRemover"}}}
    entries = [{"pruner": {"instance_name": "p"}, "epochs": [0]}, {"extension": {"instance_name": "t"}, "epochs": [0]}]
    schedule = schedule_of("range", *entries, **parts)
    whole, first = Loop(schedule, Signal()), Loop(schedule, Signal())
    whole.train(0, 2 * STEPS)
    assert isinstance(whole.net.rnn, QuantLayer)
    assert whole.net.conv.weight.shape[0] == whole.net.conv2.weight.shape[1] == 4
    first.train(0, STEPS + 1)
    second = first.resumed(schedule, Signal(seed=5))
    second.train(STEPS + 1, 2 * STEPS)
    for key, value in whole.net.state_dict().items():
        assert torch.equal(value, second.net.state_dict()[key]), key
    with pytest.raises(ScheduleError, match="thins in epoch 2, when 'q' has quantized the network .from epoch 1 on"):
        Loop(schedule_of("range", entries[0], {**entries[1], "epochs": [2]}, **parts), Signal())


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for quantizer in QUANTIZERS:
        net = Signal()
        loop = Loop(schedule_of(quantizer, first=0), net, DistributedDataParallel(net))
        loop.train(0, 3 * STEPS, rank)
        assert structure_of(net)["layers"]["rnn"]
        torch.save(net.state_dict(), f"{folder}/{quantizer}{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_same_quantized_network(tmp_path: Path) -> None:
    multiprocessing.spawn(_worker, (str(tmp_path),), nprocs=2)
    for quantizer in QUANTIZERS:
        first, second = (torch.load(tmp_path / f"{quantizer}{rank}.pt", weights_only=True) for rank in (0, 1))
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert torch.equal(value, second[key]), f"{quantizer}: {key}"
