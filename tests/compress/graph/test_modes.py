"""compiled functions run eagerly while the bench runs a network; autocast without its cache"""

import pytest
import torch
from torch import nn
from torch._dynamo import eval_frame

import compress
from compress.graph.modes import run_eagerly, uncached_autocast

IMAGE = torch.ones(1, 3, 5, 5)


def refused(graph, inputs):
    raise AssertionError("compiled")


def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))


def whole():
    model = plain()
    model.compile(backend=refused)
    return model


def leaf():
    model = plain()
    model[2].compile(backend=refused)
    return model


class Decorated(nn.Sequential):
    @torch.compile(backend=refused)
    def forward(self, x):
        return super().forward(x)


@torch.compile(backend=refused)
def act(x):
    return torch.relu(x)


class Helped(nn.Sequential):
    def forward(self, x):
        return self[2](act(self[0](x)))


class Optimized(nn.Sequential):
    def forward(self, x):
        return self[2](torch._dynamo.optimize(refused)(torch.relu)(self[0](x)))


class Kept(nn.Sequential):
    def __init__(self, *layers):
        super().__init__(*layers)
        self.run = torch.compile(self.forwarded, backend=refused)

    def forwarded(self, x):
        return self[2](torch.relu(self[0](x)))

    def forward(self, x):
        return self.run(x)


COMPILED = [whole, leaf, lambda: Decorated(*plain()), lambda: Helped(*plain()), lambda: Optimized(*plain()),
            lambda: Kept(*plain())]  # fmt: skip


@pytest.mark.parametrize("made", COMPILED)
def test_what_is_compiled_is_traced_as_if_it_were_not(made):
    model = made()
    group = next(each for each in compress.prunable_graph(model, IMAGE).groups() if each.name == "0.weight[0]")
    assert (group.units, group.prunable, group.pinned) == (4, 3, ())
    assert compress.count_macs(model, IMAGE) == compress.count_macs(plain(), IMAGE)
    with pytest.raises(Exception, match="compiled"):
        model(IMAGE)


@pytest.mark.parametrize("made", COMPILED)
def test_what_is_compiled_is_proved_as_if_it_were_not(made):
    model = made()
    graph = compress.prunable_graph(model, IMAGE)
    assert compress.remove_units(model, graph, {"0.weight[0]": [1]}, IMAGE).exact
    assert model[0].weight.shape[0] == 3


def nested():
    with run_eagerly():
        pass
    assert eval_frame._stance.stance == "force_eager"
    raise ZeroDivisionError


def test_the_stance_is_put_back_nested_and_after_an_error():
    before = eval_frame._stance
    with pytest.raises(ZeroDivisionError), run_eagerly():
        nested()
    assert eval_frame._stance is before


@torch.no_grad()
def test_uncached_autocast_sees_weights_that_change_inside_and_afterwards():
    layer, image = nn.Linear(4, 2), torch.ones(1, 4)
    with torch.autocast("cpu", torch.bfloat16):
        layer(image)  # its weights are kept from here on
        with uncached_autocast():
            layer.weight.zero_()
            assert torch.equal(layer(image)[0].float(), layer.bias.bfloat16().float())
            with torch.autocast("cpu", torch.bfloat16):
                layer(image)
            layer.bias.zero_()
            assert not layer(image).any()
        assert not layer(image).any()
        assert torch.is_autocast_cache_enabled()
