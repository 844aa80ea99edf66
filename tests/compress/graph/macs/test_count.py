"""MACs against hand counts, published figures and torch's own FLOP counter."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from compress.analysis.macs.layers import macs_table
from compress.errors import UserError
from compress.graph.calls import Call
from compress.graph.channels import channel_graph
from compress.graph.macs.count import count_macs
from compress.thinning.cost import weight_macs_left
from models.C2SRCNN.model import Net
from tests.compress.graph.nets import resnet_cifar


def flops(model, *inputs):
    """torch's count; in train mode, where attention is not hidden in one fused kernel."""
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops()


def test_resnet20_cifar():
    assert count_macs(resnet_cifar(), torch.zeros(1, 3, 32, 32)).total == 40_813_184


def test_its_repr_is_one_line():
    found = count_macs(resnet_cifar(), torch.zeros(1, 3, 32, 32))
    assert repr(found) == (
        f"MacsReport(40,813,184 MACs, {found.parameters:,} parameters, {len(found.rows)} operations in `rows`, "
        "by_module() adds them up)"
    )


class TwoWays(nn.Module):
    """Two methods share the body."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.big = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 64, 3)

    def forward(self, x):
        return self.head(self.body(x))

    def other(self, x):
        return self.big(self.body(x))


@pytest.mark.parametrize("turned", [False, True])
def test_calls_of_a_list_add_up_in_any_order(turned):
    model, x, large = TwoWays(), torch.zeros(1, 3, 8, 8), torch.zeros(2, 3, 12, 12)
    body, large_body = 36 * 8 * 27, 2 * 100 * 8 * 27
    calls = [x, Call(x, method="other"), large]
    calls = calls[::-1] if turned else calls
    total = 2 * body + 36 * 16 + 16 * 64 * 72 + large_body + 2 * 100 * 16
    report = count_macs(model, calls)
    assert report.total == macs_table(model, calls).total["macs"] == total
    assert report.by_module()["body"] == 2 * body + large_body
    assert report.parameters == sum(each.numel() for each in model.parameters())  # shared ones once
    assert sum(macs_table(model, calls).layers["parameters"]) == report.parameters
    graph = channel_graph(model, calls)
    assert graph.macs == {f"{name}.weight": macs for name, macs in report.by_module().items()}
    (group,) = (each for each in graph.groups() if each.name == "body.weight[0]")
    assert group.macs_per_unit == pytest.approx(total / 8)  # all of them read the body, or are it
    assert weight_macs_left(graph, model, {"body.weight[0]": [0, 1]}) == pytest.approx(total * 6 / 8)
    assert graph.other_macs == 0


def test_products_without_weights_of_all_calls_are_other_macs():
    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x)

        def mixed(self, x):
            return self.layer(x) @ x.mT

    x = torch.zeros(3, 4)
    assert channel_graph(Products(), [x, Call(x, method="mixed")]).other_macs == 3 * 3 * 4


def test_a_batch_of_two_costs_twice():
    model = resnet_cifar(1)
    one, two = (count_macs(model, torch.zeros(batch, 3, 32, 32)).total for batch in (1, 2))
    assert two == 2 * one


CASES = {
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2), (2, 4, 11)),
    "conv3d": (nn.Conv3d(4, 6, (1, 3, 3), dilation=2), (1, 4, 9, 9, 9)),
    "grouped": (nn.Conv2d(8, 12, 3, groups=4), (1, 8, 9, 9)),
    "depthwise": (nn.Conv2d(8, 16, 3, groups=8, padding="same"), (1, 8, 9, 9)),
    "transposed": (nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1, groups=2), (2, 8, 5, 5)),
    "linear": (nn.Linear(7, 5), (2, 3, 7)),
    "mlp": (nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.GELU(), nn.Linear(5, 2)), (3, 4, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_flop_counter(name):
    model, shape = CASES[name]
    assert 2 * count_macs(model, torch.zeros(shape)).total == flops(model, torch.zeros(shape))


class Products(nn.Module):
    def forward(self, a, b):
        c = torch.matmul(a, b)
        d = torch.bmm(a, b)
        e = torch.addmm(torch.zeros(4), a[0], b[0])
        return c, d, e, torch.einsum("bij,bjk->bik", a, b)


def test_matrix_products():
    a, b = torch.zeros(2, 3, 5), torch.zeros(2, 5, 4)
    rows = {row.operation: row.macs for row in count_macs(Products(), (a, b)).rows}
    assert rows == {"matmul": 120, "bmm": 120, "addmm": 60, "einsum": 120}


class Attention(nn.Module):
    def forward(self, query, key, value):
        return functional.scaled_dot_product_attention(query, key, value)


def test_attention_counts_both_products():
    query, key, value = torch.zeros(2, 4, 6, 8), torch.zeros(2, 4, 10, 8), torch.zeros(2, 4, 10, 3)
    assert count_macs(Attention(), (query, key, value)).total == 2 * 4 * 6 * 10 * (8 + 3)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers(kind, gates):
    model = kind(5, 7, num_layers=2, bidirectional=True)
    per_step = 2 * gates * (7 * 5 + 7 * 7) + 2 * gates * (7 * 14 + 7 * 7)
    assert count_macs(model, torch.zeros(11, 3, 5)).total == 11 * 3 * per_step


def test_rows_name_modules_shapes_and_parameters():
    report = count_macs(resnet_cifar(1), torch.zeros(1, 3, 32, 32))
    row = report.rows[0]
    assert (row.module, row.kind, row.operation) == ("0", "Conv2d", "conv2d")
    assert (row.input_shape, row.output_shape) == ((1, 3, 32, 32), (1, 16, 32, 32))
    assert (row.parameters, row.macs) == (432, 16 * 32 * 32 * 27)
    assert report.parameters == sum(tensor.numel() for tensor in resnet_cifar(1).parameters())
    assert sum(report.by_module().values()) == report.total


def test_a_shared_weight_is_counted_once_but_works_twice():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    report = count_macs(nn.Sequential(conv, nn.ReLU(), conv), torch.zeros(1, 3, 8, 8))
    assert [row.macs for row in report.rows] == [3 * 64 * 27] * 2
    assert report.parameters == 84


def test_the_model_is_left_as_it_was():
    model = resnet_cifar(1)
    model[3].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_macs(model, torch.empty(2, 3, 32, 32))
    assert model.training
    assert not model[3].training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_that_cannot_be_traced_is_named():
    class Loops(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match=r"Loops cannot be traced .*\(2,\), eval mode"):
        count_macs(Loops(), torch.zeros(2))


@pytest.mark.slow
def test_vit_counts_attention():
    model = torchvision.models.vit_b_16(weights=None)
    assert count_macs(model, torch.zeros(1, 3, 224, 224)).total == 17_563_828_224


ZOO = [
    "alexnet", "vgg11", "squeezenet1_1", "googlenet", "resnet50", "resnext50_32x4d", "densenet121",
    "mobilenet_v3_small", "shufflenet_v2_x1_0", "efficientnet_b0", "swin_t",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_zoo_agrees_with_the_flop_counter(name):
    model = torchvision.models.get_model(name, weights=None).eval()
    image = torch.zeros(1, 3, 224, 224)
    assert 2 * count_macs(model, image).total == flops(model, image)


@pytest.mark.parametrize(("scale", "features", "shrunk"), [(2, 32, 32), (3, 16, 8), (4, 24, 12)])
def test_super_resolution_agrees_with_the_flop_counter(scale, features, shrunk):
    model, image = Net(scale, features, shrunk).eval(), torch.zeros(1, 3, 18, 26)
    assert 2 * count_macs(model, image).total == flops(model, image)


class SubPixel(nn.Sequential):
    """ESPCN-like (Shi et al. 2016): convolutions at low resolution, then a shuffle."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 16, 5, padding=2), nn.Tanh(), nn.Conv2d(16, 8, 3, padding=1), nn.Tanh(),
            nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip


class Transposed(nn.Sequential):
    """FSRCNN-like (Dong et al. 2016): a transposed convolution enlarges at the end."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 12, 5, padding=2), nn.PReLU(), nn.Conv2d(12, 4, 1), nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(4, 12, 1),
            nn.ConvTranspose2d(12, 1, 9, stride=2, padding=4, output_padding=1),
        )  # fmt: skip


@pytest.mark.parametrize(("make", "channels"), [(SubPixel, 3), (Transposed, 1)])
def test_other_super_resolution_networks_agree(make, channels):
    model, image = make().eval(), torch.zeros(1, channels, 12, 14)
    assert 2 * count_macs(model, image).total == flops(model, image)


class Under(nn.Module):
    """Two layers and what a function makes of them and the input."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.other, self.conv = nn.Linear(16, 8), nn.Linear(16, 8), nn.Conv2d(3, 4, 3)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def ensemble(m, x):
    weights, biases = torch.stack([m.layer.weight, m.other.weight]), torch.stack([m.layer.bias, m.other.bias])
    return torch.vmap(lambda weight, bias: functional.linear(x, weight, bias))(weights, biases)


FLAT, IMAGES = torch.randn(6, 16), torch.randn(6, 3, 8, 8)
MAPPED = {
    "a layer": (lambda m, x: torch.vmap(m.layer)(x), FLAT),
    "in chunks": (lambda m, x: torch.vmap(m.layer, chunk_size=4)(x), FLAT),
    "along the last dimension": (lambda m, x: torch.vmap(m.layer, in_dims=-1)(x.t()), FLAT),
    "a convolution": (lambda m, x: torch.vmap(lambda image: m.conv(image[None]))(x), IMAGES),
    "products": (lambda m, x: torch.vmap(lambda a: a @ a.transpose(-1, -2))(x), IMAGES),
    "two levels": (lambda m, x: torch.vmap(torch.vmap(torch.dot, (None, 0)), (0, None))(x, x), FLAT),
    "equations": (lambda m, x: torch.vmap(lambda a: torch.einsum("i,oi->o", a, m.layer.weight))(x), FLAT),
    "an ensemble": (ensemble, FLAT),
    "what no example changes": (lambda m, x: torch.vmap(lambda a: (m.layer.weight @ m.other.weight.t()).sum() + a)(x),
                                FLAT),
    "a functional call": (lambda m, x: torch.func.functional_call(m.layer, dict(m.other.named_parameters()), (x,)),
                          FLAT),
    "a checkpoint": (lambda m, x: torch.utils.checkpoint.checkpoint(m.layer, x, use_reentrant=False), FLAT),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPPED)
def test_what_runs_for_each_example_counts_for_each(name):
    function, inputs = MAPPED[name]
    model = Under(function)
    report = count_macs(model, inputs)
    assert not report.left_out
    assert 2 * report.total == flops(model, inputs) > 0


def test_the_channels_of_a_mapped_layer_cost_what_they_cost_for_each_example():
    model = Under(lambda m, x: m.other(torch.vmap(lambda a: m.layer(a).relu())(x).repeat(1, 2)))
    assert channel_graph(model, FLAT).macs == {"layer.weight": 6 * 16 * 8, "other.weight": 6 * 16 * 8}


def test_derivatives_in_forward_mode_are_named():
    model = Under(lambda m, x: torch.func.jvp(m.layer, (x,), (x,))[1])
    assert count_macs(model, FLAT).left_out == ("derivatives in forward mode (torch.func.jvp) in the model",)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.func.vjp(m.layer, x)[0],
        lambda m, x: torch.func.grad(lambda a: m.layer(a).square().sum())(x),
        lambda m, x: torch.func.jacrev(m.layer)(x[0]),
    ],
)
def test_derivatives_backwards_are_refused(function):
    with pytest.raises(UserError, match="Derivatives inside forward .torch.func.grad, vjp, jacrev. cannot be followed"):
        count_macs(Under(function), FLAT)


def test_products_with_a_sparse_matrix_are_named_and_not_counted_as_whole_ones():
    class Adjacency(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("edges", torch.eye(6).to_sparse())

        def forward(self, x):
            return self.edges @ x + torch.sparse.mm(self.edges, x)

    report = count_macs(Adjacency(), torch.zeros(6, 5))
    assert report.total == 0
    assert report.left_out == ("matmul in the model", "_sparse_mm in the model")


class Complex(nn.Module):
    def forward(self, x, y):
        return (x @ y).abs()


def test_a_complex_product_counts_as_torchs_counter_has_it():
    x, y = torch.zeros(4, 5, dtype=torch.complex64), torch.zeros(5, 6, dtype=torch.complex64)
    with FlopCounterMode(display=False) as counter:
        Complex()(x, y)
    assert count_macs(Complex(), (x, y)).total == counter.get_total_flops() // 2 == 4 * 5 * 6


def test_questions_about_a_library_are_no_operations():
    class Asks(nn.Module):
        def forward(self, x):
            torch.ops.torchvision._cuda_version()
            return torchvision.ops.deform_conv2d(x, torch.zeros(1, 18, 4, 4), torch.ones(2, 3, 3, 3))

    report = count_macs(Asks(), torch.zeros(1, 3, 6, 6))
    assert report.left_out == ()
    assert report.total == 2 * 16 * 27
