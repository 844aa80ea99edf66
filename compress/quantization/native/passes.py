"""A fake quantizer's work on a CPU in one pass over memory each, where a C compiler is there: `passes_for`.

The numbers are those of torch's operations in functions.py to the bit, which a comparison at loading proves on this
machine. What is not float32, not dense, or looked at by a tracer is left to torch's operations. The library is
compiled when the first tensor comes (half a second, once for a machine and user), and said in one line: not later, as
what is computed anew in a backward pass must then be computed in the same way.
"""

import ctypes
import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from compress.quantization.native.build import CannotBuild, NoCompiler, library

logger = logging.getLogger("compress")

GRAIN = 1 << 15  # elements of a thread at least, as in torch's own operations
MOST_THREADS = 64  # as in passes.c


class Passes:
    """The compiled functions, for tensors that `passes_for` has accepted."""

    def __init__(self, compiled: ctypes.CDLL) -> None:
        self._compiled = compiled

    def quantize(self, x: Tensor, scale: float, low: int, high: int) -> Tensor:
        """The nearest multiple of `scale` within low * scale and high * scale, of x's shape and layout."""
        y = torch.empty_like(x)
        count = x.numel()
        self._compiled.quantize(x.data_ptr(), y.data_ptr(), count, scale, low, high, _threads(count))
        return y

    def quantize_inside(self, x: Tensor, scale: float, low: int, high: int) -> tuple[Tensor, Tensor]:
        """The same, and where low * scale < x < high * scale, as bool: all that the gradient needs of x."""
        y, inside = torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)
        places = x.data_ptr(), y.data_ptr(), inside.data_ptr()
        self._compiled.quantize_inside(*places, x.numel(), scale, low, high, _threads(x.numel()))
        return y, inside

    def keep(self, grad: Tensor, inside: Tensor) -> Tensor:
        """The gradient where `inside`, else 0; both in memory alike."""
        kept = torch.empty_like(grad)
        places = grad.data_ptr(), inside.data_ptr(), kept.data_ptr()
        self._compiled.keep(*places, grad.numel(), _threads(grad.numel()))
        return kept

    def ends(self, x: Tensor) -> tuple[float, float]:
        """The smallest and the largest value; NaN where any of x is."""
        found = (ctypes.c_float * 2)()
        self._compiled.find_ends(x.data_ptr(), x.numel(), found, _threads(x.numel()))
        return found[0], found[1]

    def find_steps(self, x: Tensor, steps: Tensor, factor: float) -> None:
        """Writes `factor` times the largest magnitude of each row into `steps`; 1 where that is not `usable`.

        Args:
            x: of which a row is what has one index of the first dimension; one step makes all of it a row.
            steps: float32, contiguous, of as many elements as there are rows.
            factor: of the magnitudes.
        """
        rows = steps.numel()
        self._compiled.steps_of_rows(x.data_ptr(), steps.data_ptr(), rows, x.numel() // rows, factor)

    def quantize_rows(self, x: Tensor, steps: Tensor, low: int, high: int) -> Tensor:
        """`quantize` with a scale for each row, which are as in `find_steps`."""
        y, rows = torch.empty_like(x), steps.numel()
        places = x.data_ptr(), y.data_ptr(), steps.data_ptr()
        self._compiled.quantize_rows(*places, rows, x.numel() // rows, low, high)
        return y


class _Known:
    """What this process knows of the library."""

    asked: bool = False
    passes: Passes | None = None
    lock = threading.Lock()


def passes_for(x: Tensor) -> Passes | None:
    """The compiled passes if they may compute with this tensor; None leaves it to torch's operations."""
    # A compiler first: it would compile anew when what is known changes.
    if torch.compiler.is_compiling() or (_Known.passes is None and _Known.asked):
        return None
    return _passes() if computes_with(x) else None


def computes_with(x: Tensor) -> bool:
    """Whether a tensor's memory is dense float32 of a CPU, and nobody records the operations on it."""
    if type(x) not in (Tensor, nn.Parameter) or x.dtype is not torch.float32 or not x.is_cpu:
        return False
    return (
        not _is_recorded() and x.layout is torch.strided and x.numel() > 0 and _dense(x) and not _stands_for_another(x)
    )


def keep(grad: Tensor, inside: Tensor) -> Tensor:
    """The gradient where `inside`, else 0."""
    passes = _Known.passes
    if passes is not None and grad.stride() == inside.stride() and computes_with(grad):
        return passes.keep(grad, inside)
    return torch.where(inside, grad, 0.0)


@contextmanager
def left_out() -> Iterator[None]:
    """Within it torch's operations do all: for comparisons."""
    before = _Known.asked, _Known.passes
    _Known.asked, _Known.passes = True, None
    try:
        yield
    finally:
        _Known.asked, _Known.passes = before


def _is_recorded() -> bool:
    """Whether a compiler, a tracer or a mode follows the operations: it would not see what is done by pointers."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return True
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._len_torch_function_stack() > 0


def _stands_for_another(x: Tensor) -> bool:
    """Whether its memory does not hold its values: zeros that lie nowhere, a negation that waits."""
    return x.is_neg() or x._is_zerotensor()


def _dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _threads(count: int) -> int:
    return max(1, min(torch.get_num_threads(), count // GRAIN, MOST_THREADS))


def _passes() -> Passes | None:
    if not _Known.asked:
        with _Known.lock:
            if not _Known.asked:
                _Known.passes = _made()
                _Known.asked = True
    return _Known.passes


def _made() -> Passes | None:
    started = time.perf_counter()
    try:
        compiled, is_new = library()
        passes = Passes(compiled)
        _prove(passes)
    except NoCompiler as e:
        logger.info("quantizers run as operations of torch: %s; the numbers are the same", e)
        return None
    except CannotBuild as e:
        logger.warning("quantizers run as operations of torch, slower and with the same numbers: %s", e)
        return None
    seconds = time.perf_counter() - started
    how = f"compiled in {seconds:.1f} s" if is_new else f"loaded in {1000 * seconds:.0f} ms"
    logger.info("quantizers run in one pass over memory each (%s)", how)
    return passes


@torch.no_grad()
def _prove(passes: Passes) -> None:
    """Compares with torch's operations, on numbers of all kinds.

    Raises:
        CannotBuild: a bit differs.
    """
    x, single = _numbers(), torch.float32  # whatever the default type is
    for scale, low, high in ((0.037, 0, 255), (1.5, -8, 7), (3e-39, -128, 127), (0.1, -3, 252)):
        exact = float(torch.tensor(scale, dtype=single))
        y, inside = passes.quantize_inside(x, exact, low, high)
        expected = torch.div(x, exact).clamp_(low, high).round_().mul_(exact)
        is_inside = (x > low * exact) & (x < high * exact)
        kept = torch.where(is_inside, x, 0.0)
        same = _same(y, expected) and _same(passes.quantize(x, exact, low, high), expected)
        if not (same and torch.equal(inside, is_inside) and _same(passes.keep(x, inside), kept)):
            raise CannotBuild("what was compiled does not compute what torch does")
    finite = x[x.isfinite()]
    if passes.ends(finite) != tuple(float(each) for each in torch.aminmax(finite)) or passes.ends(x)[0] == 0.0:
        raise CannotBuild("what was compiled does not find the smallest and the largest value")
    if not all(math.isnan(each) for each in passes.ends(x)):
        raise CannotBuild("what was compiled does not see values that are NaN")
    rows, steps = finite[:3200].reshape(32, 100).clone(), torch.empty(32, dtype=single)
    rows[:8] *= 1e-37  # steps on both sides of the smallest normal number, and 0
    rows[8:16] *= 3e-36
    rows[16] = 0.0
    passes.find_steps(rows, steps, 0.01)
    by_rows = torch.div(rows, steps[:, None]).clamp_(-5, 7).round_().mul_(steps[:, None])
    largest = rows.abs().amax(1) * 0.01
    usable = torch.where(largest >= torch.finfo(single).tiny, largest, 1.0)  # as in functions.py
    if not (_same(steps, usable) and _same(passes.quantize_rows(rows, steps, -5, 7), by_rows)):
        raise CannotBuild("what was compiled does not find the steps of a weight's channels")


def _numbers() -> Tensor:
    """Ordinary numbers, halves between two steps, both zeros, denormals, infinities and NaN."""
    single = torch.float32
    wide = torch.linspace(-12.0, 12.0, 1501, dtype=single)
    values = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-40, 3.4e38, -3.4e38, 1e-38]
    special = torch.tensor(values, dtype=single)
    return torch.cat([wide, torch.arange(-40, 41, dtype=single) * 0.75, wide * 3e-38, special, wide])


def _same(a: Tensor, b: Tensor) -> bool:
    """To the bit, but for the bits of NaN."""
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(
        a.nan_to_num().view(torch.int32), b.nan_to_num().view(torch.int32)
    )
