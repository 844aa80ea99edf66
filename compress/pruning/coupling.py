"""What goes together with a group: the one place where a structured mask grows beyond its own weight.

Here: `coupled_masks`, which every structured pruner calls. Not here: which groups go.
"""

from torch import Tensor, nn

from compress.groups import Tile, spread


def coupled_masks(model: nn.Module, name: str, shape: tuple[int, ...], tile: Tile, keep: Tensor) -> dict[str, Tensor]:
    """The masks that follow from keeping some groups of one weight.

    Args:
        model: the network.
        name: of the weight.
        shape: of the weight.
        tile: of its groups.
        keep: bool tensor of shape (groups,), True = kept.

    Returns:
        parameter name -> bool mask: today the weight's own alone.
    """
    return {name: spread(keep, shape, tile)}
