"""Where attention keeps its number of heads: what can be set follows, all else is pinned, nothing else is touched."""

import copy
import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import nn

from compress.thinning.complete import masks_of
from compress.thinning.thin import put_on, remove_units
from compress.thinning.trials.trial import prunable_graph


class Attention(nn.Module):
    """Three heads of size 4 and a feed-forward part; subclasses say where the three stands."""

    def __init__(self):
        super().__init__()
        self.setup()
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
        self.ff = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 12))

    def setup(self):
        """Where there is something to set."""

    def heads(self):
        return self.num_heads

    def forward(self, x):
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.heads(), 4).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = x + self.out(((q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.ff(x)


class OfTheClass(Attention):
    num_heads = 3


class ReadFromTheClass(Attention):
    num_heads = 3

    def heads(self):
        return type(self).num_heads


class Property(Attention):
    @property
    def num_heads(self):
        return 3


class PropertyThatFollows(Attention):
    @property
    def num_heads(self):
        return self.qkv.out_features // 12


class CachedProperty(Attention):
    @functools.cached_property
    def num_heads(self):
        return self.qkv.weight.shape[0] // 12


class PropertyWithSetter(Attention):
    def setup(self):
        self.settings = {"heads": 3}

    @property
    def num_heads(self):
        return self.settings["heads"]

    @num_heads.setter
    def num_heads(self, value):
        self.settings["heads"] = value


class PropertyThatRaises(Attention):
    @property
    def num_heads(self):
        raise ValueError("not known")

    def heads(self):
        return 3


class Slot(Attention):
    __slots__ = ("num_heads",)

    def setup(self):
        self.num_heads = 3


class Numpy(Attention):
    def setup(self):
        self.num_heads = np.int64(3)


class OfATensor(Attention):
    def setup(self):
        self.num_heads = torch.tensor(3)

    def heads(self):
        return int(self.num_heads)


@dataclasses.dataclass(frozen=True)
class Config:
    num_heads: int = 3


class Configured(Attention):
    def setup(self):
        self.config = Config()

    def heads(self):
        return self.config.num_heads


class Delegating(Attention):
    def setup(self):
        self.config = Config()

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.config, name)


class DelegatingButDirect(Delegating):
    def heads(self):
        return self.config.num_heads


class Frozen(OfTheClass):
    def __setattr__(self, name, value):
        if name == "num_heads":
            raise AttributeError("frozen")
        super().__setattr__(name, value)


FOLLOWS = [
    OfTheClass, PropertyThatFollows, CachedProperty, PropertyWithSetter, Numpy, Configured, Delegating,
    DelegatingButDirect,
]  # fmt: skip
STAYS = [ReadFromTheClass, Property, PropertyThatRaises, Slot, OfATensor, Frozen]


def network(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 12), kind(), nn.Linear(12, 4)).double()
    return model, torch.randn(2, 5, 12, dtype=torch.float64)


@pytest.mark.parametrize("kind", [*FOLLOWS, *STAYS])
def test_heads_follow_or_stay(kind):
    model, x = network(kind)
    graph = prunable_graph(model, x)
    groups = [group.name for group in graph.groups(prunable_only=True)]
    assert ("1.qkv.weight[0]" in groups) == (kind in FOLLOWS), graph.describe()
    assert {"0.weight[0]", "1.ff.0.weight[0]"} <= set(groups)
    if kind in STAYS:
        assert any(reason.endswith("in 1)") for reason in graph.why_pinned("1.qkv.weight"))
    removed = {name: [1] for name in groups}
    masked = copy.deepcopy(model) if kind is not Slot else network(kind)[0]
    put_on(masked, masks_of(graph, removed, dict(masked.named_parameters())))
    recipe = remove_units(model, graph, removed, x).recipe
    torch.testing.assert_close(model.eval()(x), masked.eval()(x), rtol=1e-12, atol=1e-12)
    assert model[1].qkv.weight.shape[0] == (24 if kind in FOLLOWS else 36)
    assert model[1].heads() == (2 if kind in FOLLOWS else 3)
    fresh = recipe.apply(network(kind)[0])
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(fresh(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [OfTheClass, Property, Numpy])
def test_attention_is_not_touched_where_only_the_feed_forward_part_is_pruned(kind):
    model, x = network(kind)
    recipe = remove_units(model, prunable_graph(model, x), {"1.ff.0.weight[0]": [1, 4]}, x).recipe
    assert set(recipe.attributes) == {"1.ff.0", "1.ff.2"}
    assert "num_heads" not in vars(model[1]) or kind is Numpy
    assert model[1].ff[0].out_features == 8
