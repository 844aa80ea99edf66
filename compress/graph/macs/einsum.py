"""Multiply-accumulates of products of several tensors: einsum and chains of matrices.

Pure functions of equations and shapes.

    einsum_macs("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)])      # 2*3*4*5 = 120
    einsum_macs("...ij,...jk", [(2, 3, 4), (2, 4, 5)])       # the same, the result being implied
    chain_macs([2, 30, 4, 50])                               # 2*30*4 + 2*4*50 = 640, the cheapest order
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Shape = tuple[int, ...]
Index = str | int  # a letter; a dimension under `...`, counted from the right


def einsum_macs(equation: str, shapes: Sequence[Shape], path: Sequence[int] | None = None) -> int:
    """What torch does: two operands at a time, from the left or along `path`; each pair costs all of its indices.

    An index that only one operand has, and that nothing needs later, is summed first, which costs no multiplication.

    Args:
        equation: as of `torch.einsum`, with or without `->`, dots and repeated letters.
        shapes: of the operands.
        path: places of the operands of each pair, flat; each product is appended to the list.
    """
    terms, result = parsed(equation, shapes)
    sizes = index_sizes(terms, shapes)
    waiting = [set(term) for term in terms]
    places = list(path or ())
    total = 0
    while len(waiting) > 1:
        one, other = (places.pop(0), places.pop(0)) if len(places) > 1 else (0, 1)
        pair = [waiting.pop(place) for place in sorted((one, other), reverse=True)]
        needed = set(result).union(*waiting)
        # What both have is multiplied; what one has alone takes part
        # only if something needs it later, else it is summed first.
        product = (pair[0] & pair[1]) | ((pair[0] | pair[1]) & needed)
        total += math.prod(sizes[index] for index in product)
        # torch appends a product along a path (opt_einsum's convention), and multiplies from the left without one.
        waiting.insert(len(waiting) if path else 0, product & needed)
    return total


def parsed(equation: str, shapes: Sequence[Shape]) -> tuple[list[list[Index]], list[Index]]:
    """The indices of each operand and of the result."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    dots = [len(shape) - len(term.replace("...", "")) for term, shape in zip(left.split(","), shapes, strict=True)]
    terms = [_indices(term, count) for term, count in zip(left.split(","), dots, strict=True)]
    widest = max((count for term, count in zip(left.split(","), dots, strict=True) if "..." in term), default=0)
    if arrow:
        return terms, _indices(right, widest)
    letters = left.replace("...", "").replace(",", "")
    once = sorted(letter for letter in set(letters) if letters.count(letter) == 1)
    return terms, [*range(-widest, 0), *once]


def _indices(term: str, dots: int) -> list[Index]:
    before, ellipsis, after = term.partition("...")
    return [*before, *(range(-dots, 0) if ellipsis else ()), *after]


def index_sizes(terms: Sequence[Sequence[Index]], shapes: Sequence[Shape]) -> dict[Index, int]:
    """Index -> its size, the larger one where it is broadcast."""
    sizes: dict[Index, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for index, size in zip(term, shape, strict=True):
            sizes[index] = max(sizes.get(index, 1), size)
    return sizes


def chain_macs(sizes: Sequence[int]) -> int:
    """The cheapest order of a product of matrices (sizes[0], sizes[1]) @ (sizes[1], sizes[2]) @ ..."""
    count = len(sizes) - 1
    best = [[0] * count for _ in range(count)]
    for length in range(1, count):
        for start in range(count - length):
            end = start + length
            best[start][end] = min(
                best[start][cut] + best[cut + 1][end] + sizes[start] * sizes[cut + 1] * sizes[end + 1]
                for cut in range(start, end)
            )
    return best[0][-1] if count else 0
