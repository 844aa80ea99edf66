"""A group whose trial fails stays, with the module's name and the reason, and the rest of the network continues."""

import copy

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.thinning.complete import masks_of
from compress.thinning.proof.observe import observe
from compress.thinning.proof.outputs import relative
from compress.thinning.proof.verify import Outcome, trial
from compress.thinning.thin import put_on, remove_units
from compress.thinning.trials import trial as trials
from compress.thinning.trials.retreat import Lookalikes, Trials, first_fault, retreat
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.attentions import ScaledByWidth

IMAGE = torch.linspace(-1, 1, 2 * 3 * 64, dtype=torch.float64).reshape(2, 3, 8, 8)


class Scaled(nn.Module):
    """Divides by the root of its own width."""

    def __init__(self):
        super().__init__()
        self.up = nn.Conv2d(6, 8, 1)
        self.down = nn.Conv2d(8, 6, 1)

    def forward(self, x):
        y = self.up(x).relu()
        return self.down(y / y.shape[1] ** 0.5)


class WidthOfInput(nn.Module):
    """Attention whose heads are joined again by the width of what came in (NextViT, LDM)."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x):
        batch, channels, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = (layer(tokens).view(batch, -1, 2, 3).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = ((q @ k.transpose(-2, -1)) / 3).softmax(-1) @ v
        y = self.proj(y.transpose(1, 2).reshape(batch, height * width, channels))
        return y.transpose(1, 2).reshape(batch, channels, height, width)


class Floors(nn.Module):
    """Follows a loss of one channel or two, and no more: a size is rounded."""

    def __init__(self):
        super().__init__()
        self.up = nn.Conv2d(6, 8, 1)
        self.down = nn.Conv2d(8, 6, 1)

    def forward(self, x):
        y = self.up(x).relu()
        batch = int(x.shape[0] * 8.9 / y.shape[1])
        return self.down(y).view(batch, 6, *x.shape[2:])


class Literal(nn.Module):
    """A size that is a number in the code, behind a layer of its own."""

    def __init__(self):
        super().__init__()
        self.up = nn.Conv2d(6, 8, 1)
        self.down = nn.Linear(8 * 64, 6)

    def forward(self, x):
        return self.down(self.up(x).relu().view(-1, 512))[:, :, None, None]


def network(part):
    """The part in the middle of a network that has nothing to do with it."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 10, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(10, 6, 1),
        part,
        nn.Conv2d(6, 9, 1),
        nn.ReLU(),
        nn.Conv2d(9, 2, 1),
    )
    return net.double()


def pinned(graph, name):
    return " ".join(graph.why_pinned(name))


def check_thinned(net, graph, removed):
    """A fresh copy whose units are zero computes the same; 1e-10 in float64."""
    fresh = copy.deepcopy(net)
    result = remove_units(net, graph, removed, IMAGE)
    put_on(fresh, masks_of(graph, result.removed, dict(fresh.named_parameters())))
    other = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    ours, theirs = (observe(each, (other,), "eval").outputs[0] for each in (net, fresh))
    assert relative(theirs, ours) < 1e-10
    return result


@pytest.mark.parametrize(
    ("part", "stays", "why"),
    [
        (Scaled, "3.up.weight", "a trial without some of it changed what is computed"),
        (WidthOfInput, "3.v.weight", "a trial showed that its size is fixed in the code"),
        (Literal, "3.up.weight", "a trial showed that its size is fixed in the code"),
    ],
)
def test_the_part_that_fails_stays_and_the_rest_goes(part, stays, why):
    net = network(part())
    graph = prunable_graph(net, IMAGE)
    free = {group.name for group in graph.groups(prunable_only=True)}
    assert {"0.weight[0]", "4.weight[0]"} <= free
    result = check_thinned(net, graph, {g.name: [*range(g.units // 3)] for g in graph.groups(prunable_only=True)})
    assert {"0.weight[0]", "4.weight[0]"} <= set(result.removed)
    assert why in " ".join([pinned(graph, stays), *result.notes])
    assert f"{stays}[0]" not in result.removed


def test_what_holds_for_one_unit_and_fails_for_more_stays_at_the_real_thinning():
    net = network(Floors())
    graph = prunable_graph(net, IMAGE)
    groups = {group.name: group for group in graph.groups(prunable_only=True)}
    assert "3.up.weight[0]" in groups
    before = [weight.shape for weight in net[3].parameters()]
    result = check_thinned(
        net, graph, {"0.weight[0]": [1, 2, 3], "3.up.weight[0]": [0, 1, 2, 3, 5], "4.weight[0]": [8]}
    )
    assert set(result.removed) == {"0.weight[0]", "4.weight[0]"}
    assert [weight.shape for weight in net[3].parameters()] == before
    (note,) = result.notes
    assert "3.up.weight[0]: 5 units stay" in note


def test_nothing_is_done_where_all_fails():
    net = network(Floors())
    graph = prunable_graph(net, IMAGE)
    with pytest.raises(UserError, match="not thinned and is unchanged"):
        remove_units(net, graph, {"3.up.weight[0]": [0, 1, 2, 3, 5]}, IMAGE)


def test_a_network_that_is_never_the_same_is_named():
    class Counting(nn.Module):
        calls = 0

        def forward(self, x):
            Counting.calls += 1
            return (x * Counting.calls).view(x.shape[0], -1, 2, 4)

    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), Counting(), nn.Conv2d(48, 2, 1)).double()
    with pytest.raises(UserError, match="does not compute the same twice"):
        remove_units(net, prunable_graph(net, IMAGE), {"0.weight[0]": [1]}, IMAGE)


class FakeGraph:
    """Groups without a network."""

    def __init__(self, names):
        self.names = names
        self.asked_for = {}

    def groups(self):
        return ()


def fake_trials(names, bad, log, near=()):
    """A removal fails once it has one of the bad groups, with an error in a module that the near ones belong to."""

    def attempt(tried):
        log.append(tuple(tried))
        hit = [name for name in tried if name in bad]
        return Outcome(1.0 if hit else 0.0, 0.5, "", "too small" if hit else "")

    class Near(Trials):
        def near(self, module):
            return set(near)

    return Near(FakeGraph(names), attempt, attempt)


FAILED = Outcome(1.0, 0.5, "", "too small")


def test_the_search_is_binary():
    names = [f"g{number}" for number in range(64)]
    log = []
    name, fault, held = first_fault(names, fake_trials(names, {"g40"}, log), FAILED)
    assert (name, fault.reason) == ("g40", "too small")
    assert set(held) == set(names[:40])
    assert len(log) <= 7


def test_what_is_near_the_module_that_failed_is_tried_last():
    names = [f"g{number}" for number in range(64)]
    log = []
    name, _, held = first_fault(names, fake_trials(names, {"g3"}, log, near=("g3", "g50")), FAILED)
    assert name == "g3"
    assert len(log) == 2
    assert set(held) == set(names) - {"g3", "g50"}


def test_all_that_fail_are_found_and_the_rest_is_left():
    names = [f"{letter}{number}x" for number in range(4) for letter in "abcd"]
    log = []
    trials = fake_trials(names, {"a1x", "d2x"}, log)
    left, faults, outcome = retreat(names, trials, FAILED, Lookalikes(nn.Sequential()).of(FakeGraph(names)))
    assert set(faults) == {"a1x", "d2x"}
    assert left == [name for name in names if name not in faults]
    assert outcome.passed
    assert len(log) <= 2 * 6


class Positions(nn.Module):
    """Takes as many rows of a table as there are words (BERT's position_ids)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("numbers", torch.arange(32)[None])
        self.table = nn.Embedding(32, 6)
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.down(self.up(x + self.table(self.numbers[:, : x.shape[1]])).relu())


def test_a_table_is_not_cut_to_the_length_of_the_example():
    net = Positions().double()
    fresh, words = copy.deepcopy(net), torch.randn(2, 5, 6, dtype=torch.float64)
    graph = prunable_graph(net, words)
    assert graph.why_pinned("numbers", 1)
    result = remove_units(net, graph, {g.name: [g.units - 1] for g in graph.groups(prunable_only=True)}, words)
    put_on(fresh, masks_of(graph, result.removed, dict(fresh.named_parameters())))
    longer = torch.randn(2, 9, 6, dtype=torch.float64)
    torch.testing.assert_close(net(longer), fresh(longer), rtol=1e-10, atol=1e-12)


def test_a_number_that_follows_the_head_size_is_found_without_a_search(monkeypatch):
    """MobileViT in transformers: scores / sqrt(head size) in nine layers took half a minute of trials."""
    made = []
    monkeypatch.setattr(trials, "trial", lambda *a, **k: made.append(trial(*a, **k)) or made[-1])
    model = nn.Sequential(nn.Linear(6, 12), *(ScaledByWidth() for _ in range(4)), nn.Linear(12, 2)).double()
    graph = prunable_graph(model, torch.linspace(-1, 1, 2 * 5 * 6).reshape(2, 5, 6).double())
    assert [each.passed for each in made] == [False, True, False, True]  # the second removes nothing
    inner = {group.name: "".join(group.pinned) for group in graph.groups() if group.within_heads}
    assert all("the size of a head is fixed" in reason for name, reason in inner.items() if ".q." in name)
    assert "1.q.weight[0]" in {group.name for group in graph.groups(prunable_only=True)}
