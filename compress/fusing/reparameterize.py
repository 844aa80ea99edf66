"""The schedule's fuser (section `extensions`): `Reparameterize`."""

from torch import nn

from compress.arguments.checked import CheckedArguments
from compress.errors import UserError
from compress.fusing.blocks import METHODS, Fusion, fusions_of, method_of
from compress.registry import EXTENSIONS
from compress.selectors import ModuleSelector, canonical_modules, unwrapped


@EXTENSIONS.register
class Reparameterize(CheckedArguments):
    """Replaces blocks that train wide by the layer that computes the same; training continues with the narrow network.

    Papers: Ding et al. 2021, RepVGG: Making VGG-style ConvNets Great Again, arXiv 2101.03697; Zhang et al. 2021,
    Edge-oriented Convolution Block for Real-time Super Resolution on Mobile Devices, ACM Multimedia. There the network
    is fused once training has ended; here in an epoch of the schedule, so that pruning and quantization may follow.

    A block is a module with a method `fuse`, `reparameterize` or `switch_to_deploy` that needs no argument. Before it
    is replaced, block and network are compared with what they become, in float64, in eval and in training mode, on the
    first training batch or the example inputs; where they differ nothing is changed, and the error names the block.
    Of a BatchNorm inside a block the running statistics are folded, so a step after fusing is not the step that the
    block would have taken. Masks are carried over where an element is zero whatever else changes.

    When to use: in one epoch, before pruners (listed before those of the same epoch) and before quantizers. Policies
    that act after it name the weights of the fused network (`python train.py ... --plan` lists what they reach).

    Sample:
        extensions:
          fuser:
            class: Reparameterize
        policies:
          - extension: {instance_name: fuser}
            epochs: [1]

    Args:
        blocks: selectors of the blocks; other modules that a glob matches are passed over. None takes all blocks.
    """

    def __init__(self, blocks: list[ModuleSelector] | None = None) -> None:
        self.blocks = blocks

    def fusions(self, model: nn.Module) -> dict[str, Fusion]:
        """What takes the place of each block of a network, by the block's name.

        Raises:
            UserError: there is no block, or a selected module is not one.
        """
        inner = unwrapped(model)
        found = fusions_of(inner, None if self.blocks is None else self._chosen(inner, self.blocks))
        if not found:
            raise UserError(
                f"{type(inner).__name__} has no block that fuses: no module with a method {', '.join(METHODS[:-1])} or "
                f"{METHODS[-1]} that would change it"
            )
        return found

    def _chosen(self, model: nn.Module, names: list[str]) -> list[str]:
        """The outermost blocks among the names; all names, for the message, where none is a block."""
        modules = canonical_modules(model)
        blocks = [name for name in names if name in modules and method_of(modules[name])]
        outer = [name for name in blocks if not any(name.startswith(f"{other}.") for other in blocks)]
        return outer or names
