"""Keeping parts of a network as they are for a while: `LayerFreezer`, and the two means that freezing has.

What is frozen and how.
"""

from collections.abc import Iterable

from torch import nn

from compress.arguments.checked import CheckedArguments
from compress.registry import EXTENSIONS
from compress.selectors import WeightSelectors, canonical_parameters


@EXTENSIONS.register
class LayerFreezer(CheckedArguments):
    """Keeps parameters as they are in the epochs of its policy, and lets them go again.

    Method: their gradients are taken away before the optimizer's step, and every optimizer of torch skips a parameter
    without gradient: no step, no weight decay, no momentum; what the optimizer remembers of it waits. Pruners still
    mask frozen weights. A frozen weight still costs its backward pass.

    When to use: to train new layers before the old ones follow, to keep a distilled part as it is, to fine-tune a head.

    Sample:
        extensions:
          freezer:
            class: LayerFreezer
            weights: ['conv1.*', 'bn1.*']
            batch_norm_statistics: true

    Args:
        weights: selectors of the parameters, biases and scales included.
        batch_norm_statistics: BatchNorms with a frozen scale, or without scale in a module all of whose parameters are
            frozen, also keep their running mean and variance, and normalise by them.
    """

    def __init__(self, weights: WeightSelectors, batch_norm_statistics: bool = False) -> None:
        self.weights = weights
        self.batch_norm_statistics = batch_norm_statistics

    def faults(self, model: nn.Module) -> list[str]:
        """Statistics are to be frozen, and no BatchNorm is among what is selected."""
        if self.batch_norm_statistics and not self.norms(model):
            return ["batch_norm_statistics is true, but no BatchNorm's scale is among the weights"]
        return []

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """The parameters to freeze."""
        known = canonical_parameters(model)
        return [known[name] for name in self.weights]

    def norms(self, model: nn.Module) -> list[nn.Module]:
        """The BatchNorms whose statistics are to be frozen."""
        return norms_of(model, self.parameters(model)) if self.batch_norm_statistics else []


def norms_of(model: nn.Module, frozen: Iterable[nn.Parameter]) -> list[nn.Module]:
    """The BatchNorms that belong to frozen parameters: by their own scale, else by the module that they are in."""
    still = {id(parameter) for parameter in frozen}
    found: list[nn.Module] = []
    for parent in model.modules():
        for module in parent.children():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                own = list(module.parameters()) or list(parent.parameters())
                if own and all(id(parameter) in still for parameter in own):
                    found.append(module)
    return found


def take_from_update(parameters: Iterable[nn.Parameter]) -> None:
    """After backward(): the optimizer's next step leaves these parameters, and what it remembers of them, alone."""
    for parameter in parameters:
        parameter.grad = None


class HeldStatistics:
    """Norms that are in eval mode for one minibatch, so that their running statistics stay."""

    def __init__(self) -> None:
        self._held: list[nn.Module] = []

    def hold(self, norms: Iterable[nn.Module]) -> None:
        """Before a forward pass."""
        for norm in norms:
            if norm.training:
                norm.training = False
                self._held.append(norm)

    def release(self) -> None:
        """After the minibatch: those that were in training mode are again."""
        for norm in self._held:
            norm.training = True
        self._held.clear()
