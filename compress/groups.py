"""Groups of a weight's elements that live and die together: filters, channels, rows, columns, kernels, blocks.

The tile of each kind of group, and the way from a weight to its groups and back. Used by structured pruners, group
regularizers and thresholds.

Every kind of group is a tiling: the weight is cut into equal tiles, and each tile is a group. For a convolution's
weight of shape (O, I, h, w):

    Filters, 3D   tile (1, I, h, w)   one filter            O groups
    Channels      tile (O, 1, h, w)   one input channel     I groups
    2D            tile (1, 1, h, w)   one kernel            O * I groups
    Rows          tile (1, I, h, w)   a row of the matrix (O, I*h*w)
    Cols          tile (O, 1, 1, 1)   a column of it
    4D            tile (O, I, h, w)   the whole weight
    Blocks        the block shape that is given

    >>> tile_of("Channels", (8, 4, 3, 3))
    (8, 1, 3, 3)
    >>> group_norms(torch.ones(8, 4, 3, 3), (8, 1, 3, 3), 1)
    tensor([72., 72., 72., 72.])
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from compress.errors import some
from compress.selectors import canonical_parameters, parameter_owner

GroupName = Literal["Filters", "3D", "Channels", "Rows", "Cols", "2D", "Blocks"]
FilterGroup = Literal["Filters", "3D"]
COUPLED = frozenset(("Filters", "3D", "Channels"))  # go with what the network couples to them; other kinds go alone
Tile = tuple[int, ...]
LEAST_DIMENSIONS = {"2D": 3, "4D": 1, "Blocks": 1}  # the other kinds need 2


def tile_of(group: str, shape: Sequence[int], block_shape: Sequence[int] | None = None, swapped: bool = False) -> Tile:
    """The tile of a kind of group.

    Args:
        group: a `GroupName`, or `4D`.
        shape: of the weight.
        block_shape: of a block, as many numbers as the weight has dimensions; only for `Blocks`.
        swapped: whether the first dimension is the input's, as in transposed convolutions.

    Raises:
        ValueError: the weight has too few dimensions, or the blocks do not fill it.
    """
    # The edge of a tile is 1 at least: a weight without elements has no groups, of whatever kind.
    shape = tuple(max(size, 1) for size in shape)
    if len(shape) < LEAST_DIMENSIONS.get(group, 2):
        raise ValueError(f"a weight of shape {shape} has no groups of kind {group!r}")
    if swapped and group in ("Filters", "3D", "Channels"):
        group = "Filters" if group == "Channels" else "Channels"
    match group:
        case "Filters" | "3D" | "Rows":
            return (1, *shape[1:])
        case "Channels":
            return (shape[0], 1, *shape[2:])
        case "Cols":
            return (shape[0], *(1 for _ in shape[1:]))
        case "2D":
            return (1, 1, *shape[2:])
        case "4D":
            return shape
        case "Blocks":
            return _block(shape, block_shape)
    raise ValueError(f"no groups of kind {group!r}")


def _block(shape: Tile, block_shape: Sequence[int] | None) -> Tile:
    if block_shape is None:
        raise ValueError(
            "group_type Blocks needs a block_shape, such as [1, 8, 1, 1]: filters, channels, height, width"
        )
    block = tuple(block_shape)
    if len(block) > len(shape) and all(edge == 1 for edge in block[len(shape) :]):
        block = block[: len(shape)]  # [1, 8, 1, 1] on a linear layer's matrix
    if len(block) != len(shape) or any(size % edge for size, edge in zip(shape, block, strict=True)):
        raise ValueError(f"blocks of shape {tuple(block_shape)} do not fill a weight of shape {shape} exactly")
    return block


def group_count(shape: Sequence[int], tile: Tile) -> int:
    """How many groups there are."""
    return math.prod(size // edge for size, edge in zip(shape, tile, strict=True))


def group_size(tile: Tile) -> int:
    """How many elements a group has."""
    return math.prod(tile)


def as_groups(weight: Tensor, tile: Tile) -> Tensor:
    """The groups as rows of a matrix: shape (groups, elements of a group), differentiable."""
    view, inside = _cut(weight, tile)
    outside = [dim - 1 for dim in inside]
    return view.permute(*outside, *inside).reshape(-1, group_size(tile))


def group_norms(weight: Tensor, tile: Tile, order: float) -> Tensor:
    """The L`order` norm of each group: shape (groups,); its gradient at an all-zero group is zero."""
    view, inside = _cut(weight, tile)
    return torch.linalg.vector_norm(view, order, dim=inside).reshape(-1)


def spread(values: Tensor, shape: Sequence[int], tile: Tile) -> Tensor:
    """One value a group -> a tensor of the weight's shape in which each element has its group's value.

    Example: values [True, False] of the rows of shape (2, 3) give [[True] * 3, [False] * 3].
    """
    counts = [size // edge for size, edge in zip(shape, tile, strict=True)]
    # (tiles, 1, tiles, 1, ..): each value beside the size 1 that `expand` stretches to the tile's edge.
    thin = values.reshape([part for count in counts for part in (count, 1)])
    return thin.expand([part for pair in zip(counts, tile, strict=True) for part in pair]).reshape(tuple(shape))


def in_tiles(weight: Tensor, tile: Tile) -> Tensor:
    """The weight with each dimension split in two: tiles, and elements along a tile's edge."""
    return _cut(weight, tile)[0]


def _cut(weight: Tensor, tile: Tile) -> tuple[Tensor, list[int]]:
    """The weight with each dimension split in (tiles, edge), and the dimensions of the edges."""
    parts = [part for size, edge in zip(weight.shape, tile, strict=True) for part in (size // edge, edge)]
    return weight.reshape(parts), list(range(1, 2 * weight.dim(), 2))


class Tilings:
    """The tiles of a model's weights, looked up once for each weight, shape and kind of group.

    A transposed convolution keeps its filters in the second dimension; that is why the model is asked.

    Args:
        block_shape: of `Blocks`.
    """

    def __init__(self, block_shape: Sequence[int] | None = None) -> None:
        self.block_shape = block_shape
        self._known: dict[tuple[str, str, Tile], Tile] = {}

    def tile(self, model: nn.Module, name: str, shape: Sequence[int], group: str) -> Tile:
        """The tile of that weight.

        Raises:
            ValueError: the weight has no such groups; the message names it.
        """
        key = (name, group, tuple(shape))
        if key not in self._known:
            self._known[key] = self._find(model, name, tuple(shape), group)
        return self._known[key]

    def faults(self, model: nn.Module, groups: Mapping[str, str]) -> list[str]:
        """What is wrong with weights that have no such groups: a sentence, or one for all of them with the way out.

        Args:
            model: whose weights are meant.
            groups: weight's name -> kind of group.
        """
        found = {}
        parameters = canonical_parameters(model)
        for name, group in groups.items():
            try:
                self.tile(model, name, parameters[name].shape, group)
            except ValueError as e:
                found[name] = str(e)
        if len(found) < 2:
            return list(found.values())
        kinds = " or ".join(dict.fromkeys(groups[name] for name in found))
        others = some([name for name in groups if name not in found]) or "none of those given does"
        return [f"{len(found)} of {len(groups)} weights cannot be taken by {kinds}: {some(list(found))}; the first: "
                f"{next(iter(found.values()))}. Name those that can: {others}"]  # fmt: skip

    def _find(self, model: nn.Module, name: str, shape: Tile, group: str) -> Tile:
        owner = parameter_owner(model, name)
        swapped = is_transposed(owner) and len(shape) > 1
        if swapped and group in ("Filters", "3D") and getattr(owner, "groups", 1) != 1:
            raise ValueError(f"{name!r}: the filters of a transposed convolution in groups are not {group!r}")
        try:
            return tile_of(group, shape, self.block_shape, swapped)
        except ValueError as e:
            raise ValueError(f"{name!r}: {e}") from e


def is_transposed(module: nn.Module | None) -> bool:
    """Whether a layer's weight has the input channels first."""
    return isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
