"""The schedule's thinners (section `extensions`): `FilterRemover`, `ChannelRemover`, `StructureRemover`.

What they may be told.
"""

from typing import Literal

from compress.arguments.checked import CheckedArguments
from compress.registry import EXTENSIONS


@EXTENSIONS.alias("ResnetCifarChannelRemover")
@EXTENSIONS.alias("ResnetCifarFilterRemover")
@EXTENSIONS.alias("ChannelRemover")
@EXTENSIONS.alias("FilterRemover")
@EXTENSIONS.register
class StructureRemover(CheckedArguments):
    """Takes the filters and channels that masks have cleared out of the network: it becomes physically smaller.

    One class under Distiller's names of both generations. A unit leaves with everything that is coupled to it (filter,
    bias, BatchNorm, the channels of whatever reads it), found through the network's graph. Before it returns it proves
    on the first training batch (before one was seen: on the example inputs, or random ones) that the thinned network
    computes what the masked one did; otherwise nothing has changed, and the error names the module and the reason. The
    optimizer stays the same object, its per-element state is cut.

    When to use: in the epoch of a structured pruner, listed after it, or later; any number of times. Or in the last
    epoch of a regularizer with `threshold_criteria`, or later: whole filters that are zero go without a mask. What
    masks of rows, columns, kernels or blocks clear stays in the network, for these go alone.

    Sample:
        pruners:
          filter_pruner:
            class: L1RankedStructureParameterPruner
            reg_regims: {'conv1.weight': [0.5, '3D']}
        extensions:
          net_thinner:
            class: FilterRemover
            thinning_func_str: remove_filters
        policies:
          - pruner: {instance_name: filter_pruner}
            epochs: [1]
          - extension: {instance_name: net_thinner}
            epochs: [1]

    Args:
        thinning_func_str: Distiller's name of what is removed; here every cleared unit goes, whichever is written.
        arch: accepted for Distiller's schedules; the graph is traced, so it has no effect.
        dataset: accepted for Distiller's schedules; the example inputs have the shape, so it has no effect.
        allow_inexact: also remove what changes the output (channels under a norm over them); the log says that it was
            inexact, with the measured difference.
    """

    def __init__(
        self,
        thinning_func_str: Literal[
            "remove_filters",
            "remove_channels",
            "contract_model",
            "resnet_cifar_remove_filters",
            "resnet_cifar_remove_channels",
            "vgg_remove_filters",
        ] = "contract_model",
        arch: str | None = None,
        dataset: str | None = None,
        allow_inexact: bool = False,
    ) -> None:
        self.thinning_func_str = thinning_func_str
        self.arch = arch
        self.dataset = dataset
        self.allow_inexact = allow_inexact
