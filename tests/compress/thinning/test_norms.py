"""Norms over the channels: thinned, they compute what the masked network does, before and after both train on."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.errors import UserError
from compress.thinning.complete import masks_of
from compress.thinning.norms import Padded
from compress.thinning.recipe import Recipe
from compress.thinning.thin import put_on, remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.twins import numbers, prepared, thinned_alike


class Stream(nn.Module):
    """A residual stream of eight channels with one norm, called twice; images or sequences."""

    def __init__(self, norm, images=True, before=None):
        super().__init__()
        layer = (lambda i, o: nn.Conv2d(i, o, 1)) if images else nn.Linear
        self.first, self.middle, self.last = layer(3, 8), layer(8, 8), layer(8, 4)
        self.norm, self.before = norm, before or nn.Identity()

    def forward(self, x):
        x = self.before(self.first(x))
        return self.last(self.norm(x + self.middle(self.norm(x))))


class ByHand(nn.Module):
    """Mean and variance over the channels, channels first."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * x + self.bias.view(1, -1, 1, 1)


class Functional(nn.Module):
    """`F.layer_norm` with a shape of its own, channels moved behind and back."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift, self.sizes = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8)), (8,)

    def forward(self, x):
        return functional.layer_norm(x.permute(0, 2, 3, 1), self.sizes, self.scale, self.shift).permute(0, 3, 1, 2)


class Subclass(nn.LayerNorm):
    """As in timm and torchvision."""

    def forward(self, x):
        x = functional.layer_norm(x.transpose(1, -1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.transpose(1, -1)


class ResponseNorm(nn.Module):
    """ConvNeXt V2's: the length of each channel over the mean of all."""

    def __init__(self):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.zeros(1, 8, 1, 1)), nn.Parameter(torch.zeros(1, 8, 1, 1))

    def forward(self, x):
        length = x.norm(p=2, dim=(2, 3), keepdim=True)
        return self.gamma * (x * (length / (length.mean(1, keepdim=True) + 1e-6))) + self.beta + x


class Scaled(nn.Module):
    """Root mean square by the number of channels that the tensor has."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 8, 1, 1))

    def forward(self, x):
        return x * torch.rsqrt(x.square().sum(1, keepdim=True) / x.shape[1] + 1e-6) * self.weight


class ByName(nn.Module):
    """Takes its tensor by name, beside a number; keeps its width as a number."""

    def __init__(self):
        super().__init__()
        self.weight, self.width = nn.Parameter(torch.ones(8)), 8

    def forward(self, hidden_states, scale=1.0):
        return functional.rms_norm(hidden_states, (self.width,), self.weight) * scale


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = ByName()

    def forward(self, x):
        return self.inner(scale=2.0, hidden_states=x)


class BesideInput(nn.Module):
    """A norm over channels and the network's input, which is never masked."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 8), nn.LayerNorm(11), nn.Linear(11, 4)

    def forward(self, x):
        return self.last(self.norm(torch.cat([self.first(x), x], -1)))


class Table(nn.Module):
    """Beside the norm a buffer with a number for each channel, which is not zero where a channel is masked."""

    def __init__(self, function):
        super().__init__()
        self.register_buffer("table", torch.linspace(0.5, 1, 8).view(1, 8, 1, 1))
        self.function = function

    def forward(self, x):
        x = self.function(x, self.table)
        return x - x.mean(1, keepdim=True)


class Neighbours(nn.Module):
    """No norm: to the convolution over the means of the channels it matters where a channel stands."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1, 3))

    def forward(self, x):
        means = x.mean((2, 3))
        return (
            x * (functional.conv1d(means[:, None], self.weight, padding=1)[:, 0] + means.mean(1, True))[..., None, None]
        )


SEQUENCES = {
    "LayerNorm": lambda: nn.LayerNorm(8),
    "no affine": lambda: nn.LayerNorm(8, elementwise_affine=False),
    "no bias": lambda: nn.LayerNorm(8, bias=False),
    "RMSNorm": lambda: nn.RMSNorm(8),
}
IMAGES = {
    "by hand": ByHand,
    "functional": Functional,
    "a subclass": lambda: Subclass(8),
    "response": ResponseNorm,
    "root mean square": Scaled,
    "one group": lambda: nn.GroupNorm(1, 8),
}
ALL = {**SEQUENCES, **IMAGES}


def build(name):
    torch.manual_seed(0)
    return Stream(ALL[name](), name in IMAGES)


def inputs(name):
    sizes = ((2, 3, 4, 4), (3, 3, 5, 4)) if name in IMAGES else ((2, 5, 3), (3, 4, 3))
    return [numbers(*size) for size in sizes]


@pytest.mark.parametrize("name", ALL)
def test_thinned_twice_and_trained_on_it_is_what_the_masked_network_is(name):
    model, given = build(name), inputs(name)
    first, _ = thinned_alike(model, *given)
    assert len(first["first.weight[0]"]) == 3
    again, graph = thinned_alike(model, *given, share=4)
    assert len(again["first.weight[0]"]) == 1, graph.describe()
    assert isinstance(model.norm, Padded)
    assert model.norm.full_width == 8
    assert model.middle.weight.shape[0] == 4


@pytest.mark.parametrize("name", ALL)
def test_it_is_sent_and_rebuilt(name):
    """Pickle, copy, export and compile; a fresh build by the recipe, from a file."""
    model, given = prepared(build(name)), inputs(name)
    whole = Recipe()
    for _ in range(2):
        graph = prunable_graph(model, given[0])
        removed = {group.name: [1] for group in graph.groups(prunable_only=True)}
        whole = whole.then(remove_units(model, graph, removed, given[0]).recipe)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    plain = io.BytesIO()
    torch.save(whole.to_dict(), plain)
    plain.seek(0)
    fresh = Recipe.from_dict(torch.load(plain, weights_only=True)).apply(build(name).double())
    fresh.load_state_dict(model.state_dict())
    model.eval()
    torch.compiler.reset()
    twins = [
        torch.load(file, weights_only=False),
        copy.deepcopy(model),
        torch.export.export(model, (given[0],)).module(),
        torch.compile(model, backend="eager", fullgraph=True),
        fresh,
    ]
    with torch.no_grad():
        wanted = model(given[0])
        for twin in twins:
            torch.testing.assert_close(twin(given[0]), wanted, rtol=0, atol=1e-15)


@pytest.mark.parametrize("build", [BesideInput, lambda: Stream(Named(), False)], ids=["beside the input", "by name"])
def test_other_ways_to_call_a_norm(build):
    torch.manual_seed(0)
    model = build()
    removed, graph = thinned_alike(model, numbers(2, 5, 3), numbers(3, 4, 3))
    assert len(removed["first.weight[0]"]) == 3, graph.describe()


def test_encoders_of_torch_take_no_fused_path_around_a_norm():
    """Without gradients `nn.TransformerEncoder` computes norms itself, by their weights."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 3, 16, 0.0, batch_first=True)
    model = nn.Sequential(nn.Linear(8, 12), nn.TransformerEncoder(layer, 2), nn.Linear(12, 4))
    inputs = numbers(2, 6, 8)
    prepared(model).eval()
    graph, twin = prunable_graph(model, inputs), copy.deepcopy(model)
    (group,) = [group for group in graph.groups(prunable_only=True) if group.name == "0.weight[0]"]
    put_on(twin, masks_of(graph, {group.name: [1, 5]}, dict(twin.named_parameters())))
    remove_units(model, graph, {group.name: [1, 5]}, inputs)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs), twin(inputs), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("function", "goes"), [(torch.mul, True), (torch.add, False), (torch.div, False)])
def test_tables_of_a_layer(function, goes):
    torch.manual_seed(0)
    removed, graph = thinned_alike(Stream(Table(function)), numbers(2, 3, 4, 4))
    assert bool(removed) is goes, graph.describe()


def test_what_is_not_zero_where_it_is_masked_stays():
    """sigmoid(0) is 0.5 and counts in the mean; nothing is left that says so."""
    graph = prunable_graph(prepared(Stream(nn.LayerNorm(8), False, nn.Sigmoid())), numbers(2, 5, 3))
    assert any("norm over the channel dimension" in reason for reason in graph.why_pinned("first.weight"))


def test_channels_whose_place_matters_stay():
    graph = prunable_graph(prepared(Stream(Neighbours())), numbers(2, 3, 4, 4))
    assert graph.why_pinned("first.weight")


def test_a_damaged_recipe_is_refused():
    model = build("LayerNorm")
    with pytest.raises(UserError, match="'norm' is no norm of -3 channels; nothing was changed"):
        Recipe(padded={"norm": (-1, -3)}).apply(model)
    with pytest.raises(UserError, match="it has no module 'nor'"):
        Recipe(padded={"nor": (-1, 8)}).apply(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_the_exported_file_computes_the_same(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model, given = prepared(build(name)), inputs(name)
    graph = prunable_graph(model, given[0])
    remove_units(model, graph, {group.name: [1, 4] for group in graph.groups(prunable_only=True)}, given[0])
    model.float().eval()
    batch = given[0].float()
    torch.onnx.export(model, (batch,), str(tmp_path / "net.onnx"), dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(batch), rtol=1e-4, atol=1e-5)


def test_the_worked_example_of_the_module():
    norm = nn.LayerNorm(4, elementwise_affine=False).double()
    Recipe(padded={"0": (-1, 4)}, attributes={"0": {"normalized_shape": (3,)}}).apply(nn.Sequential(norm))
    masked = torch.tensor([[1.0, 3, 0, 5]], dtype=torch.float64)
    wanted = (masked - 9 / 4) / (masked.var(unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(norm(masked[:, [0, 1, 3]]), wanted[:, [0, 1, 3]])


class PooledAttention(nn.Module):
    """Queries and keys of a head are pooled over the tokens, then normed over their positions (arXiv 2112.01526)."""

    def __init__(self):
        super().__init__()
        self.heads, self.head_dim = 2, 4
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.pool_q, self.pool_k = (nn.Conv1d(4, 4, 3, padding=1, groups=4, bias=False) for _ in range(2))
        self.norm_q, self.norm_k = nn.LayerNorm(4), nn.LayerNorm(4)

    def split(self, x, pool=None, norm=None):
        batch, tokens, _ = x.shape
        x = x.view(batch, tokens, self.heads, self.head_dim).transpose(1, 2)
        if pool is None:
            return x
        flat = x.reshape(batch * self.heads, tokens, self.head_dim).transpose(1, 2)
        return norm(pool(flat).transpose(1, 2).reshape(batch, self.heads, tokens, self.head_dim))

    def forward(self, x):
        x = self.first(x)
        q = self.split(self.q(x), self.pool_q, self.norm_q)
        k = self.split(self.k(x), self.pool_k, self.norm_k)
        y = (q @ k.transpose(-1, -2)).softmax(-1) @ self.split(self.v(x))
        return self.last(x + self.out(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1)))


def test_a_norm_over_the_positions_of_a_head_keeps_its_width():
    torch.manual_seed(0)
    model = PooledAttention()
    removed, graph = thinned_alike(model, numbers(2, 5, 3), numbers(3, 4, 3))
    assert removed["q.weight[0] within heads"], graph.describe()
    assert model.norm_k.full_width == 4
