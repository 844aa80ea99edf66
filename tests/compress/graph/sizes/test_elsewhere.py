"""Numbers that only methods read which no example runs: what they may count stays, and nothing else."""

import pytest
import torch

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


def project(model):
    return model.project(IMAGE)


@pytest.mark.parametrize(("kind", "stays"), [(Projects, True), (Views, True), (Cuts, False), (BothView, False)])
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
