"""A cast that has nothing to do gives its input back: what runs beside it reads the input, not the cast."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.graph import trace
from compress.thinning.thin import remove_units
from compress.thinning.trials.trial import prunable_graph

X = torch.linspace(-1, 1, 2 * 3 * 6).reshape(2, 3, 6)
CASTS = {
    "to": lambda h: h.to(torch.float32),
    "to a device": lambda h: h.to("cpu"),
    "float": lambda h: h.float(),
    "type_as": lambda h: h.type_as(h),
    "contiguous": lambda h: h.contiguous(),
    "double": lambda h: h.double(),
    "copied": lambda h: h.to(torch.float32, copy=True),
    "back": lambda h: h.half().to(torch.float32),
}


class RMSNorm(nn.Module):
    def __init__(self, cast):
        super().__init__()
        self.weight, self.cast = nn.Parameter(torch.linspace(0.5, 2, 8)), cast

    def forward(self, h):
        before, h = h.dtype, self.cast(h)
        return self.weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).to(before)


class Residual(nn.Module):
    def __init__(self, cast):
        super().__init__()
        torch.manual_seed(0)
        self.e, self.n, self.o = nn.Linear(6, 8), RMSNorm(cast), nn.Linear(8, 5)

    def forward(self, x):
        h = self.e(x)
        return self.o(h + self.n(h))


@pytest.fixture(params=["recorded", "exported"])
def _tracer(request, monkeypatch):
    if request.param == "exported":

        def beyond(*_):
            raise RuntimeError

        monkeypatch.setattr(trace, "_recorded", beyond)


@pytest.mark.parametrize("name", CASTS)
@pytest.mark.usefixtures("_tracer")
def test_a_norm_that_casts_stays_free_beside_a_residual(name):
    model = Residual(CASTS[name])
    graph = prunable_graph(model, X)
    assert [group.name for group in graph.groups(prunable_only=True)] == ["e.weight[0]"]
    with torch.no_grad():
        h = model.e(X)
        h[..., [1, 4]] = 0
        wanted = model.o(h + functional.rms_norm(h, (8,), model.n.weight, 1e-6))
        remove_units(model, graph, {"e.weight[0]": [1, 4]}, X)
        torch.testing.assert_close(model(X), wanted, rtol=2e-3 if name == "back" else 1e-5, atol=1e-3)
