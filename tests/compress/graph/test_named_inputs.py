"""A bare dictionary of example inputs holds named arguments, wherever inputs are taken."""

import copy

import pytest
import torch
from torch import nn

from compress.calibration.batch_norm import reestimate_batch_norm
from compress.config import dict_config
from compress.distillation.capture import seen_on
from compress.graph.calls import Call
from compress.graph.macs.count import count_macs
from compress.thinning.current import CurrentGraph
from compress.thinning.thin import thin
from compress.thinning.trials.trial import prunable_graph, prunable_groups

NAMED = {"x": torch.linspace(-1, 1, 18).reshape(3, 6), "y": torch.linspace(1, -2, 18).reshape(3, 6)}
WAYS = [NAMED, [NAMED], Call(NAMED)]


class TwoIn(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.norm, self.o = nn.Linear(6, 8), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x, *, y=None):
        h = self.a(x)
        return self.o(self.norm(h if y is None else h + self.b(y)).relu())


def masks():
    keep = torch.ones(8, 6, dtype=torch.bool)
    keep[1] = False
    return {"a.weight": keep, "b.weight": keep.clone()}


SCHEDULE = {
    "pruners": {
        "p": {
            "class": "L1RankedStructureParameterPruner",
            "group_type": "Filters",
            "desired_sparsity": 0.5,
            "weights": ["a.weight", "b.weight"],
        }
    },
    "extensions": {"t": {"class": "FilterRemover"}},
    "policies": [
        {"pruner": {"instance_name": "p"}, "epochs": [0]},
        {"extension": {"instance_name": "t"}, "epochs": [0]},
    ],
}


def epoch(model, inputs):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = dict_config(model, optimizer, SCHEDULE, example_inputs=inputs, epochs=1)
    scheduler.on_epoch_begin(0, optimizer)
    for step in range(2):
        scheduler.on_minibatch_begin(0, step, 2, optimizer)
        loss = scheduler.before_backward_pass(0, step, 2, model(**NAMED).square().mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.on_minibatch_end(0, step, 2, optimizer)
    scheduler.on_epoch_end(0, optimizer)
    return scheduler


@pytest.mark.parametrize("inputs", WAYS, ids=["bare", "in a list", "in a call"])
def test_graph_thinning_and_counts_read_it_alike(inputs):
    model = TwoIn()
    assert {place for group in prunable_groups(model, inputs) for place, _ in group.members} >= {"a.weight", "b.weight"}
    assert count_macs(model, inputs).total == 3 * (2 * 6 * 8 + 8 * 2)
    wanted = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name in ("a.weight", "a.bias", "b.weight", "b.bias", "norm.weight", "norm.bias"):
            wanted.get_parameter(name)[1] = 0
    graph = prunable_graph(model, inputs)
    assert sum(map(len, thin(model, inputs, masks(), graph=graph).removed.values())) == 1
    torch.testing.assert_close(model.eval()(**NAMED), wanted(**NAMED))


@pytest.mark.parametrize("inputs", [*WAYS, None], ids=["bare", "in a list", "in a call", "seen"])
def test_a_schedule_thins_with_it(inputs):
    model = TwoIn()
    epoch(model, inputs)
    assert model.a.out_features == model.b.out_features
    # Before the first batch nothing is known to be coupled: what goes is what both masks happen to clear.
    assert model.a.out_features == (5 if inputs is None else 4)


@pytest.mark.parametrize("how", ["all named", "one named", "wrapped"])
def test_a_batch_of_named_arguments_is_kept(how):
    model = nn.DataParallel(TwoIn()) if how == "wrapped" else TwoIn()
    current = CurrentGraph(model)
    current.watch()
    model(NAMED["x"], y=NAMED["y"]) if how == "one named" else model(**NAMED)
    resumed = CurrentGraph(TwoIn())
    resumed.load_state_dict(current.state_dict())
    for each in (current, resumed):
        assert {name: value.shape for name, value in each.inputs.items()} == {"x": (3, 6), "y": (3, 6)}
        assert len(each.get().groups(prunable_only=True)) == 1
    assert set(current.proved_on()) == {"x", "y"}


def test_calibration_and_distillation_run_on_it():
    model, apart = TwoIn(), TwoIn()
    reestimate_batch_norm(model, [NAMED])
    h = apart.a(NAMED["x"]) + apart.b(NAMED["y"])
    torch.testing.assert_close(model.norm.running_mean, h.mean(0).detach())
    seen = seen_on(apart, ["o"], NAMED)["o"]
    torch.testing.assert_close(seen, apart.eval()(**NAMED))
