"""The compiled passes against torch's operations: equal to the bit, in value, gradient and what is observed."""

import copy
import io
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from compress.config import dict_config
from compress.quantization.dorefa import FixedRangeActivation
from compress.quantization.fake_quant import FakeQuantizer
from compress.quantization.functions import ends, plainly_quantize, usable
from compress.quantization.lsq import LearnedStepActivation
from compress.quantization.native import passes
from compress.quantization.native.build import CannotBuild, NoCompiler, compiler, library, options_here
from compress.quantization.pact import ClippedActivation
from compress.quantization.range_linear import RangeActivation, RangeWeight
from tests.compress.harness import tiny_net

PIECES: dict[str, Callable[[], FakeQuantizer]] = {
    "QAT": lambda: RangeActivation(8, False),
    "QAT, signed": lambda: RangeActivation(8, True),
    "QAT, asymmetric": lambda: RangeActivation(8, True, "ASYMMETRIC_UNSIGNED"),
    "QAT, weight": lambda: RangeWeight(8),
    "QAT, weight, per channel": lambda: RangeWeight(8, axis=0),
    "QAT, weight, restricted": lambda: RangeWeight(8, "SYMMETRIC_RESTRICTED", axis=0),
    "QAT, weight, asymmetric": lambda: RangeWeight(8, "ASYMMETRIC_SIGNED", axis=0),
    "QAT, weight, other axis": lambda: RangeWeight(8, axis=1),
    "DoReFa": lambda: FixedRangeActivation(4, False),
    "PACT": lambda: ClippedActivation(4, False, 1.5),
    "LSQ": lambda: LearnedStepActivation(4, True),
}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3),
    "part": lambda x: x[:, :3, 1:],
    "expanded": lambda x: x[:, :1].expand_as(x),
}


@pytest.fixture(autouse=True)
def compiled() -> passes.Passes:
    """Skips visibly where nothing can be compiled; there torch's operations are tested by their own tests."""
    try:
        options_here()
        compiler()
    except NoCompiler as e:
        pytest.skip(str(e))
    found = passes._passes()
    assert found is not None
    return found


def numbers(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """With zeros of both signs, denormals, values at, on and beyond the ends of ranges."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2
    flat = x.flatten()
    flat[::7], flat[1::11], flat[2::13], flat[3::17] = 0.0, -0.0, 1e-41, 1.5
    flat[4::19] = (flat[4::19] * 4).round() / 4
    return flat.reshape(shape)


def answers(piece: FakeQuantizer, layout: str, given: Callable[[int], Tensor]) -> list[Tensor]:
    """Values, gradients and state of three minibatches, the last in evaluation."""
    found: list[Tensor] = []
    for step in range(3):
        piece.train(step < 2)
        x = LAYOUTS[layout](given(step)).detach().requires_grad_()
        if isinstance(piece, RangeWeight) and step == 0:
            piece.start(x)
        if hasattr(piece, "check_sign"):
            piece.check_sign(x)
        y = piece(x)
        weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
        (y.nan_to_num() * weights.to(y.dtype)).sum().backward()
        assert x.grad is not None
        assert y.shape == x.shape
        found += [y.detach(), x.grad, *(each.detach().clone() for each in piece.state_dict().values())]
        found += [each.grad.clone() for each in piece.parameters() if each.grad is not None]
        found += [getattr(piece, name).clone() for name in ("negative", "ignored") if hasattr(piece, name)]
    return found


def bits(x: Tensor) -> Tensor:
    """The bits of a tensor; all NaN alike."""
    if not x.dtype.is_floating_point:
        return x
    x = torch.where(x.isnan(), torch.nan, x).contiguous()
    return x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def compare(piece: FakeQuantizer, layout: str, given: Callable[[int], Tensor]) -> None:
    other = copy.deepcopy(piece)
    found = answers(piece, layout, given)
    with passes.left_out():
        expected = answers(other, layout, given)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.stride() == b.stride()
        assert torch.equal(bits(a), bits(b))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", PIECES)
def test_equal_to_the_bit(name: str, layout: str) -> None:
    compare(PIECES[name](), layout, lambda step: numbers((4, 5, 9, 7), step))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PIECES)
def test_other_types_are_left_to_torch(name: str, dtype: torch.dtype) -> None:
    compare(PIECES[name](), "contiguous", lambda step: numbers((4, 5, 9, 7), step).to(dtype))


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [each for each in PIECES if "weight" not in each])
def test_values_that_are_not_finite(name: str, odd: float) -> None:
    def given(step: int) -> Tensor:
        x = numbers((4, 16, 8, 8), step)  # whole vectors: torch's gradient of a NaN in the rest is another
        if step == 1:
            x[1, 2, 3, 4] = odd
        return x

    compare(PIECES[name](), "contiguous", given)


@pytest.mark.parametrize("axis", [None, 0])
def test_weights_that_are_zero_or_not_finite(axis: int | None) -> None:
    weight = numbers((6, 4, 3, 3))
    weight[0], weight[1, 0, 0, 0], weight[2, 0, 0, 0] = 0.0, math.nan, math.inf
    compare(RangeWeight(8, axis=axis), "contiguous", lambda step: weight * (step + 1))


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("size", [1e-34, 1e-36, 1e-37, 1e-38, 1e-40, 1e-45])
def test_weights_next_to_zero(axis: int | None, size: float) -> None:
    compare(RangeWeight(8, axis=axis), "contiguous", lambda step: numbers((6, 4, 3, 3), step) * size)


def test_the_proof_sees_another_floor_of_steps(compiled: passes.Passes) -> None:
    class Lower(passes.Passes):
        def find_steps(self, x: Tensor, steps: Tensor, factor: float) -> None:
            super().find_steps(x, steps, factor)
            largest = x.abs().amax(1) * factor
            steps.copy_(torch.where(largest > 0, largest, 1.0))

    with pytest.raises(CannotBuild, match="steps of a weight's channels"):
        passes._prove(Lower(compiled._compiled))


@pytest.mark.parametrize("steps", [1, 1 - 2.0**-23])
def test_the_smallest_step_is_the_smallest_normal_number(compiled: passes.Passes, steps: float) -> None:
    found, largest = torch.empty(1), torch.full((1, 5), 2.0**-119) * steps
    compiled.find_steps(largest, found, 2.0**-7)
    assert torch.equal(found, usable(largest[0, :1] * 2.0**-7))


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1 << 17])
def test_several_threads_find_what_one_finds(count: int, compiled: passes.Passes, monkeypatch: Any) -> None:
    x = numbers((count,))
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(passes, "_threads", lambda _, n=threads: n)
        y, inside = compiled.quantize_inside(x, 0.25, -3, 7)
        found.append((y, inside, compiled.keep(x, inside), torch.tensor(compiled.ends(x))))
        assert torch.equal(y, compiled.quantize(x, 0.25, -3, 7))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    x[-1] = torch.nan
    assert all(math.isnan(each) for each in compiled.ends(x))


def test_threads_are_torchs_and_few_for_small_tensors() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert [passes._threads(count) for count in (1, passes.GRAIN, 2 * passes.GRAIN, 1 << 24)] == [1, 1, 2, 2]
    finally:
        torch.set_num_threads(before)


def test_the_input_is_not_kept_for_the_gradient() -> None:
    kept: list[torch.dtype] = []
    x = torch.randn(4, 8, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each.dtype) or each, lambda each: each):
        plainly_quantize(x, 0.25, 0, 255)
    assert kept == [torch.bool]


class Seen(TorchFunctionMode):
    """Follows torch's functions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_tracers_and_modes_see_every_operation() -> None:
    x, piece = torch.rand(4, 4), FixedRangeActivation(8, False)
    assert passes.passes_for(x) is not None
    names = [str(node.target) for node in make_fx(piece, tracing_mode="real")(x).graph.nodes]
    assert any("round" in each for each in names)
    traced, other = torch.jit.trace(piece, x), torch.rand(4, 4) * 2
    assert torch.equal(traced(other), piece(other))
    with Seen():
        assert passes.passes_for(x) is None
    with FakeTensorMode() as mode:
        assert passes.passes_for(mode.from_tensor(x)) is None
        assert passes.passes_for(x) is None
    assert passes.passes_for(x.to_sparse()) is None
    assert passes.passes_for(torch.rand(4, dtype=torch.complex64).conj().imag) is None
    assert passes.passes_for(torch.rand(0)) is None


def test_torch_exports_the_operations() -> None:
    piece = FixedRangeActivation(8, False).eval()
    exported = torch.export.export(piece, (torch.rand(4, 4),))
    assert any("round" in str(node.target) for node in exported.graph.nodes)


def test_gradients_of_any_layout() -> None:
    def gradient(grad: Tensor) -> Tensor:
        x = numbers((4, 5, 9, 7)).requires_grad_()
        plainly_quantize(x, 0.25, -3, 3).backward(grad)
        assert x.grad is not None
        return x.grad

    for grad in (torch.ones(()).expand(4, 5, 9, 7), numbers((4, 5, 9, 7)).to(memory_format=torch.channels_last)):
        found = gradient(grad)
        with passes.left_out():
            assert torch.equal(found, gradient(grad))


def test_under_activation_checkpointing() -> None:
    x = numbers((4, 4, 8, 8)).requires_grad_()
    checkpoint(lambda each: plainly_quantize(each, 0.25, 0, 15) * each, x, use_reentrant=False).sum().backward()
    found, x.grad = x.grad, None
    with passes.left_out():
        (plainly_quantize(x, 0.25, 0, 15) * x).sum().backward()
    assert torch.equal(found, x.grad)  # type: ignore[arg-type]


def test_ends_of_zeros_and_of_one_number() -> None:
    assert ends(torch.zeros(3)) == (0.0, 0.0)
    assert ends(torch.tensor(-2.5)) == (-2.5, -2.5)


def trained(net: nn.Module, optimizer: Any, scheduler: Any, epochs: range) -> list[float]:
    losses = []
    for epoch in epochs:
        scheduler.on_epoch_begin(epoch, optimizer)
        for step in range(2):
            x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(10 * epoch + step))
            scheduler.on_minibatch_begin(epoch, step, 2, optimizer)
            loss = scheduler.before_backward_pass(epoch, step, 2, net.train()(x).square().mean(), optimizer)
            optimizer.zero_grad()
            loss.backward()
            scheduler.before_parameter_optimization(epoch, step, 2, optimizer)
            optimizer.step()
            scheduler.on_minibatch_end(epoch, step, 2, optimizer)
            losses.append(loss.item())
        scheduler.on_epoch_end(epoch, optimizer)
    return losses


def made(instance: dict[str, Any]) -> tuple[nn.Module, Any, Any]:
    net = tiny_net()
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    policies = [{"quantizer": {"instance_name": "q"}, "epochs": [0, 1, 2]}]
    scheduler = dict_config(
        net, optimizer, {"quantizers": {"q": instance}, "policies": policies}, torch.randn(4, 3, 6, 6)
    )
    return net, optimizer, scheduler


@pytest.mark.parametrize("name", ["QuantAwareTrainRangeLinearQuantizer", "LSQQuantizer", "PACTQuantizer"])
def test_a_run_begun_with_and_continued_without_is_the_same_run(name: str) -> None:
    instance = {"class": name, "bits_activations": 8, "bits_weights": 8}
    whole = made(instance)
    losses = trained(*whole, range(3))
    net, optimizer, scheduler = made(instance)
    assert trained(net, optimizer, scheduler, range(1)) == losses[:2]
    copied = copy.deepcopy((net, optimizer, scheduler))
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    with passes.left_out():
        assert trained(net, optimizer, scheduler, range(1, 3)) == losses[2:]
    assert trained(*copied, range(1, 3)) == losses[2:]
    for key, value in whole[0].state_dict().items():
        assert torch.equal(value, net.state_dict()[key]), key


def test_made_for_the_first_tensor_and_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(passes._Known, "asked", False)
    monkeypatch.setattr(passes._Known, "passes", None)
    with caplog.at_level(logging.INFO, "compress"):
        assert passes.passes_for(torch.rand(1)) is not None
        assert passes.passes_for(torch.rand(1 << 17)) is not None
    assert [each.levelname for each in caplog.records] == ["INFO"]
    assert "one pass over memory" in caplog.text


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float16, torch.float64])
def test_proved_whatever_the_default_type_is(default: torch.dtype) -> None:
    torch.set_default_dtype(default)
    try:
        passes._prove(passes.Passes(library()[0]))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("left", [0, 1000, 4096, 12000])
def test_a_library_that_is_cut_off_is_made_anew(left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert library()[1]
    (made,) = (tmp_path / "compress").glob("*.so")
    content = made.read_bytes()
    made.unlink()  # this process has it in its memory
    made.write_bytes(content[:left])
    assert library()[1]
    assert not library()[1]


def test_a_command_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "gcc '-DX")
    with pytest.raises(CannotBuild, match="CC=.* is no command: No closing quotation"):
        library()


def test_zeros_that_lie_nowhere_are_left_to_torch() -> None:
    assert not passes.computes_with(torch._efficientzerotensor((4,)))
