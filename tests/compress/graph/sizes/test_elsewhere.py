"""Numbers that only methods read which no example runs: what they may count stays, and nothing else."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from compress.graph.calls import Call
from compress.graph.sizes.elsewhere import numbers_elsewhere
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.proof.nets import IMAGE, Two, thinned_and_trained


class Projecting(Two):
    def __init__(self):
        super().__init__()
        self.width, self.side = 8, 4


class Projects(Projecting):
    def project(self, x):
        return self.first(x).mean(1) * self.width


class Views(Projecting):
    def project(self, x):
        return self.first(x).view(len(x), self.width, -1).sum(1)


class Cuts(Projecting):
    def project(self, x):
        return self.first(x)[..., : self.side].sum(1)


class BothView(Views):
    def between(self, y):
        return y.view(len(y), self.width, 4, 4)


class SetsUp(Projecting):
    def widen(self, x):
        self.last = torch.nn.Conv2d(self.width, 4, 1)
        return self.last(self.first(x))


class CalledByForward(Projecting):
    def forward(self, x):
        return self.last(self.inner(x))

    def inner(self, x):
        return self.first(x) * (self.width > 2)


class ByGetattr(Projecting):
    def project(self, x):
        return getattr(self, "first")(x).mean(1) * self.width  # noqa: B009


class InSequence(torch.nn.Sequential):
    """Its layers have numbers for names."""

    def __init__(self):
        super().__init__(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 4, 1))
        self.width = 8

    def project(self, x):
        return self[0](x).mean(1) * self.width


def test_a_layer_in_a_sequence_is_run_by_its_place():
    graph = prunable_graph(InSequence(), torch.randn(2, 3, 4, 4))
    (why,) = graph.why_pinned("0.weight")
    assert "project()" in why


def project(model):
    return model.project(IMAGE)


@pytest.mark.parametrize(
    ("kind", "stays"), [(Projects, True), (ByGetattr, True), (Views, True), (Cuts, False), (BothView, False)]
)
def test_what_a_method_may_count_by_a_number_stays(kind, stays):
    removed, why = thinned_and_trained(kind(), run=project)
    assert (not removed) == stays
    assert ("project(), which no example call runs, reads width = 8" in why) == stays


def test_a_call_of_it_is_the_way_out():
    assert "first.weight[0]" in {
        group.name for group in prunable_graph(Views(), [IMAGE, Call(IMAGE, method="project")]).groups(True)
    }


def test_what_runs_or_computes_nothing_is_none():
    assert not numbers_elsewhere(SetsUp(), ())
    assert not numbers_elsewhere(CalledByForward(), ())
    assert not numbers_elsewhere(Projects(), ("project",))
    assert [each.place for each in numbers_elsewhere(Projects(), ())] == ["width"]


EIGHT = 8


class Anywhere(Projecting):
    """The number 8 from everywhere."""

    kept = 8

    def __init__(self):
        super().__init__()
        self.settings, self.sizes, self.half = {"dim": 8}, [3, 8], 4
        self.options = SimpleNamespace(dim=8)
        self.inner = Projecting()

    @property
    def dim(self):
        return self.width

    def forward(self, x, early=False):
        y = self.first(x)
        return y.view(len(x), self.width, -1).sum(1) if early else self.last(y)


def of_the_class(self, x):
    return self.first(x).view(len(x), self.kept, -1)


def of_a_dictionary(self, x):
    return self.first(x).view(len(x), self.settings["dim"], -1)


def of_an_object(self, x):
    return self.first(x).view(len(x), self.options.dim, -1)


def of_a_list(self, x):
    return self.first(x).view(len(x), self.sizes[1], -1)


def of_a_part(self, x):
    inner = self.inner
    return self.first(x).view(len(x), inner.width, -1)


def of_a_property(self, x):
    return self.first(x).view(len(x), self.dim, -1)


def by_getattr(self, x):
    return self.first(x).view(len(x), self.width, -1)


def computed(self, x):
    return self.first(x).view(len(x), 2 * self.half, -1)


def of_the_file(self, x):
    return self.first(x).view(len(x), EIGHT, -1)


def by_a_helper(self, x):
    return self._cut(self.first(x))


def by_itself(self, x):
    return self(x, True)


def through_a_name(self, x):
    layer = self.first
    return layer(x).view(len(x), self.width, -1)


EVERYWHERE = [
    of_the_class, of_a_dictionary, of_an_object, of_a_list, of_a_part, of_a_property, by_getattr, computed,
    of_the_file, by_a_helper, by_itself, through_a_name,
]  # fmt: skip


@pytest.mark.parametrize("method", EVERYWHERE)
def test_wherever_the_number_is_kept(method):
    def cut(self, y):
        return y.view(len(y), self.width, -1)

    kind = type("Kind", (Anywhere,), {"project": method, "_cut": cut, "__module__": __name__})
    found = numbers_elsewhere(kind(), ())
    assert any(each.counts("first.weight") and each.size == 8 for each in found), found
    assert all("project()" in each.reason for each in found)


def test_the_layers_own_number_follows():
    def project(self, x):
        return self.first(x).view(len(x), self.first.out_channels, -1)

    kind = type("Kind", (Projecting,), {"project": project, "__module__": __name__})
    assert not numbers_elsewhere(kind(), ())


class Counted(nn.Linear):
    """As in networks that count their operations: nothing is computed by it."""

    def flops(self, height, width):
        return height * width * self.width

    width = 8


def test_a_method_that_only_counts_runs_nothing():
    def flops(self, height, width):
        return self.first.flops(height, width) + height * self.width

    kind = type("Kind", (Projecting,), {"flops": flops, "__module__": __name__})
    network = kind()
    network.first = Counted(3, 8)
    assert not numbers_elsewhere(network, ())
