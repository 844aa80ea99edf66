"""Every operation that multiplies is counted or named: plain formulas, torch's FLOP counter and its registries."""

import importlib
import logging
import operator
import re

import pytest
import torch
import torchvision
from torch import nn
from torch.fx import Graph
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from compress.analysis.macs.display import macs_text
from compress.analysis.macs.layers import macs_table
from compress.graph.macs.count import FORMULAS, count_macs
from compress.graph.macs.einsum import chain_macs, einsum_macs
from compress.graph.macs.free import FREE, is_free, plain_name, tagged_pointwise
from compress.graph.pointwise import UNTAGGED, plain_form
from compress.graph.rules.table import RULES


class Calls(nn.Module):
    """A network of one call."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def report(function, *shapes):
    inputs = tuple(torch.zeros(shape) if isinstance(shape, tuple) else shape for shape in shapes)
    return count_macs(Calls(function), inputs)


def flops(function, *shapes):
    with FlopCounterMode(display=False) as counter:
        function(*(torch.zeros(shape) for shape in shapes))
    return counter.get_total_flops()


A, B = (2, 3, 4), (2, 4, 5)
Q, K, V = (2, 2, 6, 8), (2, 2, 7, 8), (2, 2, 7, 3)
COUNTED = {
    "einsum": (lambda a, b: torch.einsum("bij,bjk->bik", a, b), [A, B], 120),
    "einsum, dots": (lambda a, b: torch.einsum("...ij,...jk->...ik", a, b), [A, B], 120),
    "einsum, dots broadcast": (lambda a, b: torch.einsum("...ij,jk", a, b), [(2, 6, 3, 4), (4, 5)], 2 * 6 * 60),
    "einsum, implied": (lambda a, b: torch.einsum("bij,bjk", a, b), [A, B], 120),
    "einsum, spaces": (lambda a, b: torch.einsum(" b i j , b j k -> b i k ", a, b), [A, B], 120),
    "einsum, lists": (lambda a, b: torch.einsum(a, [0, 1, 2], b, [0, 2, 3], [0, 1, 3]), [A, B], 120),
    "einsum, lists with dots": (lambda a, b: torch.einsum(a, [..., 1, 2], b, [..., 2, 3]), [A, B], 120),
    "einsum, a diagonal": (lambda a, b: torch.einsum("ii,ij->ij", a, b), [(4, 4), (4, 5)], 20),
    "einsum, one operand": (lambda a: torch.einsum("bij->bji", a), [A], 0),
    "einsum, outer": (lambda a, b: torch.einsum("i,j->ij", a, b), [(4,), (5,)], 20),
    "tensordot": (lambda a, b: torch.tensordot(a, b, dims=([1, 2], [0, 1])), [(2, 3, 4), (3, 4, 5)], 120),
    "tensordot by number": (lambda a, b: torch.tensordot(a, b, dims=2), [(2, 3, 4), (3, 4, 5)], 120),
    "inner": (torch.inner, [(2, 3, 4), (5, 4)], 120),
    "linalg.matmul": (torch.linalg.matmul, [A, B], 120),
    "operator @": (lambda a, b: a @ b, [A, B], 120),
    "multi_dot": (lambda *m: torch.linalg.multi_dot(m), [(2, 30), (30, 4), (4, 50)], 240 + 400),
    "multi_dot of vectors": (lambda *m: torch.linalg.multi_dot(m), [(30,), (30, 4), (4,)], 120 + 4),
    "chain_matmul": (lambda *m: torch.chain_matmul(*m), [(2, 30), (30, 4), (4, 50)], 240 + 400),
    "addmm": (torch.addmm, [(3, 5), (3, 4), (4, 5)], 60),
    "addbmm": (torch.addbmm, [(3, 5), A, B], 120),
    "baddbmm": (torch.baddbmm, [(2, 3, 5), A, B], 120),
    "addmv": (torch.addmv, [(3,), (3, 4), (4,)], 12),
    "addr": (torch.addr, [(3, 4), (3,), (4,)], 12),
    "outer": (torch.outer, [(3,), (4,)], 12),
    "dot": (torch.dot, [(7,), (7,)], 7),
    "vdot": (torch.vdot, [(7,), (7,)], 7),
    "mv": (torch.mv, [(3, 4), (4,)], 12),
    "vecdot": (torch.linalg.vecdot, [(2, 3, 4), (2, 3, 4)], 24),
    "vecdot along": (lambda a, b: torch.linalg.vecdot(a, b, dim=1), [(2, 3, 4), (2, 3, 4)], 24),
    "kron": (torch.kron, [(2, 3), (4, 5)], 120),
    "cross": (lambda a, b: torch.linalg.cross(a, b), [(4, 3), (4, 3)], 24),
    "cdist": (torch.cdist, [(2, 3, 4), (2, 5, 4)], 120),
    "bilinear": (functional.bilinear, [(2, 3), (2, 4), (5, 3, 4)], 2 * 5 * (3 * 4 + 4)),
    "conv_tbc": (lambda x, w, b: torch.conv_tbc(x, w, b, 1), [(9, 2, 4), (3, 4, 5), (5,)], 9 * 2 * 5 * 3 * 4),
    "grouped": (lambda x, w: functional.conv2d(x, w, groups=2), [(1, 4, 6, 6), (6, 2, 3, 3)], 6 * 16 * 2 * 9),
    "transposed 3d": (functional.conv_transpose3d, [(1, 4, 3, 3, 3), (4, 5, 2, 2, 2)], 4 * 27 * 5 * 8),
    "unfold": (lambda x, w: w @ functional.unfold(x, 3), [(1, 2, 5, 5), (4, 18)], 4 * 18 * 9),
    "attention": (functional.scaled_dot_product_attention, [Q, K, V], 2 * 2 * 6 * 7 * (8 + 3)),
    "grouped queries": (
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        [(2, 4, 6, 8), K, V],
        2 * 4 * 6 * 7 * (8 + 3),
    ),
    "affine_grid": (lambda theta: functional.affine_grid(theta, [2, 1, 4, 5], True), [(2, 2, 3)], 2 * 20 * 2 * 3),
    "grid_sample": (functional.grid_sample, [(2, 3, 5, 5), (2, 4, 6, 2)], 2 * 3 * 4 * 6 * 4),
    "grid_sample 3d": (functional.grid_sample, [(2, 3, 5, 5, 5), (2, 4, 6, 2, 3)], 2 * 3 * 4 * 6 * 2 * 8),
    "bicubic": (
        lambda x, grid: functional.grid_sample(x, grid, mode="bicubic"),
        [(2, 3, 5, 5), (2, 4, 6, 2)],
        2 * 3 * 4 * 6 * 16,
    ),
    "nearest": (lambda x, grid: functional.grid_sample(x, grid, mode="nearest"), [(2, 3, 5, 5), (2, 4, 6, 2)], 0),
    "roi_align": (
        lambda x, rois: torchvision.ops.roi_align(x, rois, (3, 2), sampling_ratio=2),
        [(1, 4, 9, 9), (5, 5)],
        5 * 4 * 3 * 2 * 4 * 4,
    ),
    "resizing": (lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"), [(1, 4, 9, 9)], 0),
    "deformable": (
        lambda x, o, w: torchvision.ops.deform_conv2d(x, o, w),
        [(1, 4, 6, 6), (1, 18, 4, 4), (5, 4, 3, 3)],
        5 * 16 * 4 * 9,
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_a_product_is_counted(name):
    function, shapes, macs = COUNTED[name]
    found = report(function, *shapes)
    assert (found.total, found.left_out) == (macs, ())


def test_samples_whose_number_goes_by_values_are_named():
    found = report(lambda x, rois: torchvision.ops.roi_align(x, rois, (3, 2)), (1, 4, 9, 9), (5, 5))
    assert found.total == 0
    assert "roi_align" in str(found.left_out)


SAME = ["einsum, dots", "einsum, implied", "tensordot", "inner", "baddbmm", "grouped", "transposed 3d", "unfold"]


@pytest.mark.parametrize("name", SAME)
def test_the_flop_counter_says_the_same(name):
    function, shapes, macs = COUNTED[name]
    assert flops(function, *shapes) == 2 * macs


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ab,bc,cd->ad", [(2, 30), (30, 4), (4, 50)]),
        ("abc,cd,bd->a", [(2, 3, 4), (4, 5), (3, 5)]),
        ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("...a,ab,...b->...", [(7, 2, 4), (4, 5), (7, 2, 5)]),
    ],
)
def test_einsum_costs_what_torch_runs(equation, shapes):
    with torch.backends.opt_einsum.flags(enabled=False):
        assert 2 * einsum_macs(equation, shapes) == flops(lambda *x: torch.einsum(equation, *x), *shapes)


def test_einsum_along_a_path():
    """Right to left: bc,cd costs 30*4*50, then ab with it 2*30*50."""
    assert einsum_macs("ab,bc,cd->ad", [(2, 30), (30, 4), (4, 50)], [1, 2, 0, 1]) == 6000 + 3000


def test_a_chain_takes_the_cheapest_order():
    assert chain_macs([10, 100, 5, 50]) == 10 * 100 * 5 + 10 * 5 * 50
    assert chain_macs([7, 3]) == 0


@torch.library.custom_op("bench_tests::mix", mutates_args=())
def mix(x: torch.Tensor) -> torch.Tensor:
    return x @ x


@mix.register_fake
def _(x):
    return torch.empty_like(x)


LEFT_OUT = {
    "fft_rfft": (torch.fft.rfft, [(4, 8)]),
    "linalg_inv": (torch.linalg.inv, [(4, 4)]),
    "matrix_exp": (torch.matrix_exp, [(4, 4)]),
    "stft": (lambda x: torch.stft(x, 4, return_complex=True), [(16,)]),
    "linalg_qr": (torch.linalg.qr, [(4, 4)]),
    "bench_tests.mix": (mix, [(4, 4)]),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_not_counted_is_named(name, caplog):
    function, shapes = LEFT_OUT[name]
    with caplog.at_level(logging.WARNING, "compress"):
        found = report(function, *shapes)
    assert any(call.startswith(f"{name} in ") for call in found.left_out), found.left_out
    assert f"MACs leave out {found.left_out[0]}" in caplog.text
    table = macs_table(Calls(function), tuple(torch.zeros(shape) for shape in shapes))
    assert table.left_out == found.left_out
    assert f"not counted: {found.left_out[0]}" in macs_text(table)


def test_a_call_in_a_loop_is_named_once():
    def several(x):
        for _ in range(3):
            x = torch.fft.fft(x).real
        return x

    assert report(several, (4, 8)).left_out == ("fft_fft in the model",)


OPERATORS = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "not": lambda a, b: ~a,
    "shift left": lambda a, b: a << b,
    "shift right": lambda a, b: a >> b,
    "and with a number": lambda a, b: a & 1,
    "mod": lambda a, b: a % 2,
    "floor": lambda a, b: a // 2,
    "in place": lambda a, b: operator.iand(operator.ior(operator.ixor(a, b), b), b),
    "shifted in place": lambda a, b: operator.irshift(operator.ilshift(a, b), b),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_cost_nothing(name):
    found = report(lambda x: x * OPERATORS[name](x.int(), (x > 0).int()), (4, 8))
    assert (found.total, found.left_out) == (0, ())


def test_all_that_is_pointwise_is_free():
    """In every form that ATen has: one table says what is, for channels and for costs."""
    names = {name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names() if "aten::" in name}
    for name in sorted(each for each in names if plain_form(each) in UNTAGGED):
        for overload in getattr(torch.ops.aten, name).overloads():
            node = Graph().create_node("call_function", getattr(getattr(torch.ops.aten, name), overload))
            assert is_free(node), node.target


def test_operations_that_torch_counts_are_counted():
    """Those of its FLOP counter (forward), and of its profiler (`computeFlops`: these, and element-wise ones)."""
    names = {str(packet).removeprefix("aten.") for packet in flop_registry}
    profiled = {"conv2d", "mm", "addmm", "bmm", "baddbmm"}
    forward = {name for name in names | profiled if "backward" not in name} - {"flex_attention"}  # of a sub-graph
    assert forward <= set(FORMULAS)
    assert not {name for name in names if "backward" in name} & FREE


def test_the_tables_do_not_meet():
    assert not FREE & set(FORMULAS)
    assert not [name for name in FORMULAS if tagged_pointwise(name)]
    products = (
        "mm",
        "conv",
        "matmul",
        "attention",
        "lstm",
        "gru",
        "rnn",
        "linear",
        "fft_f",
        "einsum",
        "bilinear",
        "dot",
    )
    kept = {"upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_linear1d", "upsample_trilinear3d"}
    kept |= {"_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "fft_fftfreq", "fft_fftshift"}
    kept |= {"hamming_window", "_standard_gamma", "special_gammainc", "special_gammaincc", "special_gammaln"}
    kept |= {"special_multigammaln", "special_digamma", "special_polygamma", "cummax", "cummin"}
    assert not {name for name in FREE - kept if any(part in name for part in products)}


def test_operations_with_a_rule_are_in_a_table():
    """What the channel graph knows is not a stranger here; Fourier transforms are left out by name."""
    tables = FREE | set(FORMULAS)
    rules = {name for name in RULES if hasattr(torch.ops.aten, name) and not name.startswith("fft_")}
    assert len(rules) > 150
    assert not [name for name in rules if not {name, plain_name(name)} & tables and not pointwise(name)]


def pointwise(name):
    return tagged_pointwise(name) or tagged_pointwise(plain_name(name))


def zoo(names, size):
    for name in names:
        model = torchvision.models.get_model(name, weights=None)
        found = count_macs(model, torch.zeros(1, 3, size, size))
        assert (name, found.left_out) == (name, ())
        assert found.total > 0


def test_networks_hold_nothing_unknown():
    network = importlib.import_module("models.C2SRCNN.model").Net()
    assert count_macs(network, torch.zeros(1, 3, 12, 12)).left_out == ()


LARGE = {"inception_v3": 299}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(torchvision.models.list_models(torchvision.models))))
def test_all_of_torchvision_holds_nothing_unknown(name):
    smallest = {
        re.sub(r"[0-9]+.*|_(tiny|small|large|t|s|b|m|l|h)(?=_|$).*", "", other): other
        for other in reversed(sorted(torchvision.models.list_models(torchvision.models)))
    }
    if name not in smallest.values():
        pytest.skip("another one of its family is counted")
    zoo([name], LARGE.get(name, 224))
