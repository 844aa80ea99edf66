"""Layers that the first example call does not run: held in place, or followed once a call that runs them is given."""

import copy

import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.errors import UserError
from compress.graph.calls import Call, Unused, declare_unused
from compress.graph.channels import channel_graph
from compress.thinning.complete import masks_of
from compress.thinning.current import CurrentGraph
from compress.thinning.thin import put_on, remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.test_blocks import third

IMAGE = torch.linspace(-1, 1, 2 * 3 * 16).reshape(2, 3, 4, 4).double()


class Stages(nn.Module):
    """`project` is called by the training loop, `extra` by an optional input, `late` by a stage."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(3, 14, 1), nn.Conv2d(14, 9, 1), nn.Conv2d(9, 2, 1)
        self.projection, self.extra = nn.Linear(14, 5), nn.Conv2d(9, 2, 1)
        self.late = nn.Conv2d(9, 9, 1)
        self.stage = 1
        self.double()

    def forward(self, x, weight=None):
        x = self.second(self.first(x).relu()).relu()
        x = x if self.stage == 1 else x + self.late(x)
        return self.head(x) if weight is None else self.head(x) + weight * self.extra(x)

    def project(self, x):
        return self.projection(self.first(x).relu().mean((2, 3)))


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Stages()

    def forward(self, x):
        return self.body(x)


PROJECT = Call(IMAGE, method="project")
EXTRA = {"x": IMAGE, "weight": torch.tensor(0.5).double()}
LATE = Call(IMAGE, setting={"stage": 2})
ALL = [IMAGE, PROJECT, EXTRA, LATE]
RUNS = [
    lambda net: net(IMAGE),
    lambda net: net.project(IMAGE),
    lambda net: net(**EXTRA),
    lambda net: staged(net)(IMAGE),
]


def staged(net):
    net = copy.deepcopy(net)
    net.stage = 2
    return net


def test_what_may_feed_an_unread_layer_is_pinned_and_the_layer_is_named():
    graph = prunable_graph(Stages(), IMAGE)
    assert not graph.groups(prunable_only=True)
    (reason,) = graph.why_pinned("first.weight")
    assert "no example call reads projection.weight" in reason
    assert "else give example_inputs as a list with a call that runs it" in reason
    assert "no example call reads extra.weight and " in graph.why_pinned("second.weight")[0]


@pytest.mark.parametrize(
    ("calls", "free"),
    [([IMAGE, PROJECT], "first"), ([IMAGE, EXTRA, LATE], "second"), ([IMAGE, LATE, EXTRA, Unused("proj*")], "first")],
)
def test_a_call_frees_what_it_runs(calls, free):
    graph = prunable_graph(Stages(), calls)
    assert f"{free}.weight[0]" in [group.name for group in graph.groups(prunable_only=True)]


def test_all_calls_are_coupled_proved_and_hold_after_training():
    model = Stages()
    graph = prunable_graph(model, ALL)
    removed = third(graph)
    assert set(removed) == {"first.weight[0]", "second.weight[0]"}
    masked = copy.deepcopy(model)
    masks = masks_of(graph, removed, dict(masked.named_parameters()))
    put_on(masked, masks)
    remove_units(model, graph, removed, ALL)
    assert (model.projection.in_features, model.extra.in_channels, model.late.out_channels) == (9, 6, 6)
    for net, keep in ((masked, masks), (model, {})):
        optimizer = torch.optim.SGD(net.parameters(), 0.05)
        for _ in range(3):
            optimizer.zero_grad()
            sum(run(net).square().mean() for run in RUNS[:3]).backward()
            optimizer.step()
            put_on(net, keep)
    for run in RUNS:
        torch.testing.assert_close(run(model), run(masked), rtol=1e-9, atol=1e-12)


def test_a_method_of_a_part():
    model = Wrapped()
    calls = [IMAGE, Call(IMAGE, method="body.project"), Call(IMAGE, setting={"body.stage": 2}), Unused("body.extra")]
    graph = prunable_graph(model, calls)
    remove_units(model, graph, third(graph), calls)
    assert model.body.projection.in_features == 9
    assert model.body.stage == 1
    assert "forward" not in vars(model)


def test_a_call_that_breaks_is_refused():
    """The proof runs every call: a graph of the first call alone does not do for the second."""
    model = Stages()
    graph = channel_graph(model, [IMAGE, Unused("*")])
    with pytest.raises(UserError, match=r"was not thinned and is unchanged: in module 'projection'"):
        remove_units(model, graph, {"first.weight[0]": [0]}, [IMAGE, PROJECT])
    assert model.first.out_channels == 14


class Reader(nn.Module):
    """Two convolutions, and a layer that only `read` runs."""

    def __init__(self, layer, read):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 7, 1), nn.Conv2d(7, 2, 1)
        self.layer, self.how = layer, read
        self.double()

    def forward(self, x):
        return self.head(self.second(self.first(x)))

    def read(self, x):
        return self.how(self.layer, self.first(x), self.second(self.first(x)))


READERS = {
    "flattened": (lambda: nn.Linear(4 * 16, 2), lambda layer, a, b: layer(a.flatten(1)), {"first.weight[0]"}),
    "joined": (
        lambda: nn.Conv2d(11, 2, 1),
        lambda layer, a, b: layer(torch.cat([a, b], 1)),
        {"first.weight[0]", "second.weight[0]"},
    ),
    "twice": (lambda: nn.Conv2d(8, 2, 1), lambda layer, a, b: layer(torch.cat([a, a], 1)), {"first.weight[0]"}),
    "depthwise": (lambda: nn.Conv2d(7, 7, 3, groups=7), lambda layer, a, b: layer(b), {"second.weight[0]"}),
    "norm": (lambda: nn.BatchNorm2d(7), lambda layer, a, b: layer(b), {"second.weight[0]"}),
    "scale": (lambda: nn.ParameterList([torch.ones(7, 1, 1)]), lambda layer, a, b: layer[0] * b, {"second.weight[0]"}),
    "recurrent": (lambda: nn.GRU(7, 2), lambda layer, a, b: layer(b.mean(3).movedim(2, 0))[0], {"second.weight[0]"}),
    "matrix": (
        lambda: nn.ParameterList([torch.ones(7, 5)]),
        lambda layer, a, b: b.mean((2, 3)) @ layer[0],
        {"second.weight[0]"},
    ),
    "gate from outside": (
        lambda: nn.Linear(2, 4),
        lambda layer, a, b: a * layer(a.mean((2, 3))[:, :2])[:, :, None, None],
        {"first.weight[0]"},
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_unread_layers_of_every_kind_keep_what_feeds_them(name):
    layer, how, held = READERS[name]
    model = Reader(layer(), how)
    graph = prunable_graph(model, IMAGE)
    free = {group.name for group in graph.groups(prunable_only=True)}
    assert {"first.weight[0]", "second.weight[0]"} - free == held
    remove_units(model, graph, third(graph), IMAGE)
    model.read(IMAGE)


def test_a_missing_method_is_named():
    with pytest.raises(UserError, match="Stages has no 'projekt', .*; did you mean 'project'"):
        prunable_graph(Stages(), [IMAGE, Call(IMAGE, method="projekt")])
    with pytest.raises(UserError, match="a list without a call"):
        prunable_graph(Stages(), [Unused("*")])


def test_through_a_schedule():
    model = Stages()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = {
        "pruners": {
            "p": {"class": "L1RankedStructureParameterPruner", "reg_regims": {"first.weight": [0.5, "3D"]}},
        },
        "extensions": {"t": {"class": "FilterRemover", "thinning_func_str": "remove_filters"}},
        "policies": [
            {"pruner": {"instance_name": "p"}, "epochs": [0]},
            {"extension": {"instance_name": "t"}, "epochs": [0]},
        ],
    }
    scheduler = dict_config(model, optimizer, schedule, example_inputs=ALL)
    scheduler.on_epoch_begin(0, optimizer)
    for step in range(2):
        scheduler.on_minibatch_begin(0, step, 2, optimizer)
        optimizer.zero_grad()
        model(IMAGE).square().mean().backward()
        scheduler.before_parameter_optimization(0, step, 2, optimizer)
        optimizer.step()
        scheduler.on_minibatch_end(0, step, 2, optimizer)
    assert model.projection.in_features == 7


def test_the_batch_stands_in_for_the_plain_call():
    current = CurrentGraph(Stages(), ALL)
    current.batch = (IMAGE[:1],)
    calls = current.proved_on()
    assert calls[0].arguments is current.batch
    assert calls[1:] == [PROJECT, calls[2], LATE]
    assert calls[2].keywords == EXTRA


class Halves(nn.Module):
    """A view that only a trial can judge, and a part that nobody runs, as in GFPGAN's decoder."""

    def __init__(self):
        super().__init__()
        self.first, self.head, self.mapping = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 5, 1), nn.Linear(8, 8)
        self.double()

    def forward(self, x):
        return self.head(self.halves(x).mean(1))

    def halves(self, x):
        return self.first(x).relu().unflatten(1, (2, -1))


@pytest.mark.parametrize(
    ("calls", "pinned"),
    [
        ([IMAGE], "no example call reads mapping.weight"),
        ([IMAGE, Unused("mapping")], ""),
        ([Unused("mapping"), IMAGE], ""),
    ],
    ids=["mapping may be used", "unused", "unused first"],
)
def test_a_list_of_calls_is_tried_as_a_single_one_is(calls, pinned):
    graph = prunable_graph(Halves(), calls)
    assert graph.risky == {""}
    assert pinned in "".join(graph.why_pinned("first.weight"))
    assert bool(graph.groups(prunable_only=True)) is not bool(pinned)


def test_every_call_of_a_list_is_tried():
    """What `halves` gives is an output: nothing of it may go, although `forward` allows it."""
    graph = prunable_graph(Halves(), [IMAGE, Unused("mapping"), Call(IMAGE, method="halves")])
    assert graph.why_pinned("first.weight")


def test_a_pattern_of_modules_covers_all_their_parameters() -> None:
    assert Unused("blocks.*.act").covers("blocks.0.act.weight")
    assert Unused("head").covers("head.0.weight")
    assert Unused("head.*").covers("head.weight")
    assert not Unused("blocks.*.act").covers("blocks.0.activation.weight")
    assert not Unused("head").covers("headless.weight")


class Kept(nn.Module):
    """An old head of two layers and a mapping that nobody runs, and a half of a part that somebody does."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.old = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
        self.pair = nn.ModuleDict({"used": nn.Conv2d(8, 8, 1), "left": nn.Linear(8, 3)})
        self.double()

    def forward(self, x):
        return self.head(self.pair["used"](self.first(x).relu()))


class SaysSo(Kept):
    unused_parts = ("old", "pair.left")


class Around(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x)


def free_of(model, inputs=IMAGE):
    return [group.name for group in prunable_graph(model, inputs).groups(prunable_only=True)]


def test_all_parts_that_nobody_runs_are_named_at_once_as_they_are_typed():
    (reason,) = prunable_graph(Kept(), IMAGE).why_pinned("first.weight")
    assert "no example call reads old.0.weight and 3 more, which may be fed with these channels: if nobody" in reason
    assert "--unused old pair.left (in Python Unused('old'), Unused('pair.left') among the example_inputs)" in reason
    free = ["first.weight[0]", "head.weight[1]"]
    assert free_of(Kept(), [IMAGE, Unused("old"), Unused("pair.left")]) == free


def test_a_network_or_its_class_declares_what_nobody_runs():
    model = Kept()
    assert free_of(model) == []
    declare_unused(model, ["old"])
    declare_unused(model, ["pair.l*"])
    free = ["first.weight[0]", "head.weight[1]"]
    assert free_of(model) == free_of(copy.deepcopy(model)) == free_of(SaysSo()) == free
    assert free_of(Around(SaysSo())) == [f"body.{name}" for name in free]


def test_a_declaration_that_covers_nothing_is_refused():
    model = Kept()
    with pytest.raises(UserError, match="'odl', which is declared as unused, covers no parameter.*did you mean 'old'"):
        declare_unused(model, ["odl"])
    model.unused_parts = 7  # a number of its own under that name
    assert free_of(model) == []
    model.unused_parts = ["pair.let"]
    with pytest.raises(UserError, match="'pair.let', which is.*did you mean 'pair.left'"):
        prunable_graph(model, IMAGE)


class Tied(Kept):
    """`old` shares its first weight with a layer that is run."""

    def __init__(self):
        super().__init__()
        self.old[0].weight = self.pair["used"].weight


class ByHand(Kept):
    def forward(self, x):
        return super().forward(x) + nn.functional.conv2d(self.first(x), self.old[2].weight)


@pytest.mark.parametrize(
    ("model", "inputs", "said"),
    [
        (Kept(), [IMAGE, Unused("head")], "'head' is declared as unused, but the example calls run head, which is"),
        (Kept(), [IMAGE, Unused("head")], "leave it out of --unused (in Python of Unused(), declare_unused() or the"),
        (Kept(), [IMAGE, Unused("pair")], "run pair.used, which .* declare only what is not run, --unused pair.left"),
        (ByHand(), [IMAGE, Unused("old")], "run old.2.weight, which .* what is not run, --unused old.0 old.2.bias"),
        (Stages(), [IMAGE, PROJECT, Unused("proj*")], "'proj*' is declared as unused, but .* run projection, "),
        (Tied(), [IMAGE, Unused("old"), Unused("pair.left")], ""),
        (SaysSo(), IMAGE, ""),
        (Around(SaysSo()), IMAGE, ""),
    ],
)
def test_what_is_declared_as_unused_and_run_is_named(model, inputs, said):
    notes = channel_graph(model, inputs).notes
    assert len(notes) == bool(said)
    for note in notes:
        for part in said.split(".*"):
            assert part in note
        assert note in remove_units(model, prunable_graph(model, inputs), {}, inputs).notes


def test_a_training_run_names_it_once(caplog):
    current = CurrentGraph(Kept(), [IMAGE, Unused("head")])
    for _ in range(2):
        current.get()
        current.forget()
    assert caplog.text.count("'head' is declared as unused, but the example calls run head") == 1
