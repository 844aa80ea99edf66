"""Rules of operations without weights that compute: point-wise, reductions, softmax, pooling, resizing.

Broadcasting joins dimensions of equal size. Called through the table in `rules/table.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch.fx import Node

from compress.graph.coupling import Coupling, Rule
from compress.graph.pointwise import stays_zero
from compress.graph.rules.norms import pin_statistic, sum_over
from compress.graph.sizes.computed import counted_by
from compress.graph.sizes.origins import forms_of
from compress.graph.trace import operation_name, shape_of
from compress.graph.units import Ids
from compress.graph.values import Result, Value, fixed_result


def aligned(c: Coupling, operands: list[Value], shape: tuple[int, ...], zero: Callable[[list[bool]], bool]) -> Value:
    """Operands broadcast against each other, right-aligned; `zero` combines which of them are zero."""
    units: dict[int, Ids | None] = {}
    zeros: dict[int, bool] = {}
    for k, size in enumerate(shape):
        here = [(x, k - len(shape) + len(x.shape)) for x in operands]
        # An operand of size 1 in this dimension is broadcast: it is read for every channel and ties nothing.
        full = [(x, j) for x, j in here if j >= 0 and x.shape[j] == size and size > 1]
        found = [x.units[j] for x, j in full]
        if any(ids is not None for ids in found):
            joined = found[0]
            for ids in found[1:]:
                joined = c.join(joined, ids)
            units[k] = joined
            # One flag per operand, in their order: `stays_zero` runs the operation on them.
            zeros[k] = zero([(x, j) in full and x.units[j] is not None and x.zero[j] for x, j in here])
    return Value.of(shape, units, zeros)


def pointwise(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Any operation that works on each element by itself."""
    operands = c.values([*node.args, *node.kwargs.values()])
    return aligned(c, operands, shape_of(node), lambda flags: stays_zero(node, flags))


def like(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """zeros_like and similar ones: new numbers in the shape of another tensor."""
    x = c.read(node.args[0])
    zero = dict.fromkeys(range(len(x.shape)), operation_name(node) == "zeros_like")
    return Value.of(x.shape, dict(enumerate(x.units)), zero) if x.shape == shape_of(node) else fixed_result(node)


def passes(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Copies and dropout: channels and zeros stay."""
    return c.read(node.args[0])


def noise(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """In-place random numbers."""
    return c.read(node.args[0]).without_zero()


def copy_(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Overwrites a tensor, or a part of one: the two keep one size, and zero is what was zero in the source."""
    # flags: [target, source].
    return aligned(c, c.values(list(node.args[:2])), shape_of(node), lambda flags: flags[-1])


def spatial(trailing: int) -> Rule:
    """Pooling and resizing over the last dimensions: channels pass, and zeros stay zeros."""

    def rule(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
        x = c.read(node.args[0])
        cut = len(x.shape) - trailing
        for ids in x.units[cut:]:
            c.pin(ids, "pooled or resized along")
        results = fixed_result(node)
        units, zero = dict(enumerate(x.units[:cut])), dict(enumerate(x.zero[:cut]))
        if isinstance(results, list):
            # Only the first result holds values; the second holds indices, which are not 0 where the values are.
            return [Value.of(result.shape, units, zero if not k else {}) for k, result in enumerate(results)]
        return Value.of(results.shape, units, zero)

    return rule


def reduction(exact: bool = False, statistic: bool = False) -> Rule:
    """sum, mean, max, ...: over space channels pass; over channels only a sum is exact, if they are zero.

    A statistic over channels, such as the mean of a norm that is written out, is a matter of `allow_inexact`.
    """

    def rule(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
        # torch.max(x, other) and min share their name with the reduction.
        if "other" in a:
            return pointwise(c, node, a)
        x, dims = c.read(node.args[0]), a.get("dim")
        dims = list(range(len(x.shape))) if dims is None or dims == [] else dims
        gone = {dim % len(x.shape) for dim in ([dims] if isinstance(dims, int) else dims)} if x.shape else set()
        for dim in gone:
            # A sum of zeros and the rest is the sum of the rest; a mean is not, as it divides by the count.
            if exact and x.zero[dim] and not _of_smallest(a):
                sum_over(c, x.units[dim])
            else:
                pin_statistic(c, x.units[dim], "reduced over the channels", statistic)
        kept = [k for k in range(len(x.shape)) if k not in gone]
        places = kept if a.get("keepdim") else range(len(kept))
        results = fixed_result(node)
        clean = ZERO_RESULTS.get(operation_name(node), ())
        units = dict(zip(places, [x.units[k] for k in kept], strict=True))
        zero = dict(zip(places, [x.zero[k] for k in kept], strict=True))
        if isinstance(results, list):
            return [Value.of(result.shape, units, zero if k in clean else {}) for k, result in enumerate(results)]
        keeps = operation_name(node) in ZERO_OF_ZEROS
        return Value.of(results.shape, units, zero if keeps else {})

    return rule


def _of_smallest(a: dict[str, Any]) -> bool:
    """Whether a norm is of a negative order, which zeros change: that of -inf is the smallest absolute value."""
    order = a.get("ord", a.get("p"))
    return isinstance(order, int | float) and order < 0


NORMS = ("linalg_vector_norm", "linalg_norm", "linalg_matrix_norm", "norm")
ZERO_OF_ZEROS = ("sum", "mean", "amax", "amin", *NORMS, "var", "std")
ZERO_RESULTS = {"var_mean": (0, 1), "std_mean": (0, 1), "aminmax": (0, 1), "max": (0,), "min": (0,)}
"""Which of several results are zero where all that is reduced is."""


def transform(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Fourier transforms and shifts over some dimensions; a transform of zeros is zero."""
    x, result = c.read(node.args[0]), fixed_result(node)
    assert isinstance(result, Value)
    dims, sizes, count = a.get("dim"), a.get("s"), len(x.shape)
    if dims is None:
        # torch's default: all dimensions, or as many of the last ones as `s` has sizes.
        dims = range(count) if sizes is None else range(-len(sizes), 0)
    mixed = {dim % count for dim in ([dims] if isinstance(dims, int) else dims)}
    for dim in mixed:
        c.pin(x.units[dim], "transformed over the channels")
    rest = [k for k in range(count) if k not in mixed]
    return Value.of(result.shape, {k: x.units[k] for k in rest}, {k: x.zero[k] for k in rest})


def parts_of_complex(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Real and imaginary parts as a last dimension of two, and back."""
    x, shape = c.read(node.args[0]), shape_of(node)
    kept = range(min(len(shape), len(x.shape)))
    for ids in x.units[len(shape) :]:
        c.pin(ids, "real and imaginary parts")
    return Value.of(shape, {k: x.units[k] for k in kept}, {k: x.zero[k] for k in kept})


def triangle(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """What lies above or below the diagonal becomes zero: the last two dimensions are positions."""
    x, last = c.read(node.args[0]), len(shape_of(node)) - 2
    for ids in x.units[last:]:
        c.pin(ids, "a diagonal runs along")
    return Value.of(x.shape, dict(enumerate(x.units[:last])), dict(enumerate(x.zero[:last])))


def grid_sampler(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """input (N, C, ..), grid (N, .., 2 or 3): each channel is read at the same places; zeros stay zeros."""
    x, grid = c.read(node.args[0]), c.read(node.args[1])
    for ids in (*x.units[2:], *grid.units[1:]):
        c.pin(ids, "sampled along")
    batch = c.join(x.units[0], grid.units[0]) if x.units[0] is not None or grid.units[0] is not None else None
    return Value.of(shape_of(node), {0: batch, 1: x.units[1]}, {1: x.zero[1]})


def unpool(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """x (.., C, H, W) and where each number comes from, (.., C, H, W): each channel by itself, and 0 elsewhere."""
    x, places = c.read(node.args[0]), c.read(node.args[1])
    trailing = 3 if "3d" in operation_name(node) else 2
    cut = len(x.shape) - trailing
    for ids in (*x.units[cut:], *places.units[cut:]):
        c.pin(ids, "pooled or resized along")
    both = [Value(each.shape[:cut], each.units[:cut], each.zero[:cut]) for each in (x, places)]
    units = aligned(c, both, shape_of(node)[:cut], lambda flags: flags[0])
    return Value.of(shape_of(node), dict(enumerate(units.units)), dict(enumerate(units.zero)))


def along(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """softmax, cumsum, ...: each position of one dimension depends on all others of it."""
    x = c.read(node.args[0])
    dim = a["dim"] % len(x.shape) if x.shape else 0
    if x.shape:
        c.pin(x.units[dim], "normalised or summed up over the channels")
    units = {k: ids for k, ids in enumerate(x.units) if k != dim}
    # Where a channel is all zeros, its sums along another dimension are 0, but its softmax is 1 / n.
    keeps = operation_name(node) == "cumsum"
    return Value.of(x.shape, units, {k: keeps and x.zero[k] for k in units})


def constant(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Tensors made by the code: their sizes are what the code says, a literal or a number that can follow."""
    result, sizes, name = fixed_result(node), a.get("size"), operation_name(node)
    if not isinstance(result, Value) or not isinstance(sizes, list | tuple) or name in DRAWN:
        return result
    forms = forms_of(node, sizes)
    units = {k: counted_by(c, form, size) for k, (form, size) in enumerate(zip(forms, sizes, strict=True)) if size > 1}
    zero = "zeros" in name or ("full" in name and a.get("fill_value") == 0)
    return Value.of(result.shape, units, dict.fromkeys(units, zero))


DRAWN = ("rand", "randn", "randint", "arange", "linspace")
"""Numbers that differ from position to position."""


def ordered(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """topk, sort, kthvalue, cummax, ...: values and where they stood, along one dimension."""
    x, results = c.read(node.args[0]), fixed_result(node)
    gone = a.get("dim", -1) % max(len(x.shape), 1)
    if x.shape:
        c.pin(x.units[gone], "sorted along")
    parts = results if isinstance(results, list) else [results]
    found = []
    for number, part in enumerate(parts):
        kept = [k for k in range(len(x.shape)) if k != gone]
        places = kept if len(part.shape) == len(x.shape) else range(len(kept))
        units = dict(zip(places, [x.units[k] for k in kept], strict=True))
        zero = dict(zip(places, [x.zero[k] and number == 0 for k in kept], strict=True))
        found.append(Value.of(part.shape, units, zero))
    return found if isinstance(results, list) else found[0]


def _names(text: str) -> Iterable[str]:
    return text.split()


RULES: dict[str, Rule] = {
    "pointwise": pointwise,
    **dict.fromkeys(
        _names(
            "dropout dropout_ feature_dropout feature_dropout_ alpha_dropout contiguous clone alias detach detach_ to "
            "_to_copy type_as lift_fresh_copy lift_fresh identity float double half bfloat16 cpu cuda coalesce "
            "_coalesced_ to_dense to_sparse"
        ),
        passes,
    ),
    **dict.fromkeys(_names("bernoulli_ uniform_ normal_ random_ exponential_"), noise),
    **dict.fromkeys(_names("zeros_like ones_like full_like empty_like rand_like randn_like"), like),
    **dict.fromkeys(
        _names(
            "zeros ones full empty arange rand randn randint linspace tensor scalar_tensor new_zeros new_ones "
            "new_full new_empty _assert_tensor_metadata sym_size sym_constrain_range_for_size"
        ),
        constant,
    ),
    "copy_": copy_,
    **{
        f"{prefix}{kind}_pool{n}d": spatial(n)
        for n in (1, 2, 3)
        for prefix in ("", "adaptive_")
        for kind in ("max", "avg")
    },
    **{f"max_pool{n}d_with_indices": spatial(n) for n in (1, 2, 3)},
    **{f"lp_pool{n}d": spatial(n) for n in (1, 2)},
    **{
        f"upsample_{mode}": spatial(n)
        for n, modes in (
            (1, ("linear1d", "nearest1d", "_nearest_exact1d")),
            (2, ("bilinear2d", "bicubic2d", "nearest2d", "nearest_exact2d")),
            (3, ("trilinear3d", "nearest3d", "nearest_exact3d")),
        )
        for mode in modes
    },
    **{f"_upsample_nearest_exact{n}d": spatial(n) for n in (1, 2, 3)},
    "_upsample_bilinear2d_aa": spatial(2),
    "_upsample_bicubic2d_aa": spatial(2),
    "grid_sampler": grid_sampler,
    **dict.fromkeys(_names("max_unpool2d max_unpool3d"), unpool),
    **dict.fromkeys(
        _names("sum _sparse_sum linalg_vector_norm linalg_norm linalg_matrix_norm norm count_nonzero nansum"),
        reduction(exact=True, statistic=True),
    ),
    **dict.fromkeys(_names("mean var std var_mean std_mean amax amin max min nanmean"), reduction(statistic=True)),
    **dict.fromkeys(_names("argmax argmin prod logsumexp all any median aminmax"), reduction()),
    **dict.fromkeys(
        _names(
            "fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn "
            "fft_ifftn fft_rfftn fft_irfftn"
        ),
        transform,
    ),
    **dict.fromkeys(_names("fft_fftshift fft_ifftshift"), transform),
    **dict.fromkeys(_names("view_as_real view_as_complex"), parts_of_complex),
    **dict.fromkeys(_names("tril triu tril_ triu_"), triangle),
    **dict.fromkeys(
        _names(
            "softmax log_softmax _softmax _log_softmax _sparse_softmax _sparse_log_softmax cumsum cumprod logcumsumexp"
        ),
        along,
    ),
    **dict.fromkeys(_names("topk sort kthvalue mode cummax cummin"), ordered),
}
