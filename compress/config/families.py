"""The families of the schedule language: section, policy key, and how a policy is made of an instance.

One row per family and the import lines that register each algorithm. To add an algorithm: its file, and one
import line here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

import compress.distillation.features
import compress.distillation.outputs
import compress.distillation.similarity
import compress.distillation.staged
import compress.freezing
import compress.fusing.reparameterize
import compress.lr.closed_form
import compress.lr.composed
import compress.lr.one_cycle
import compress.lr.torch_schedulers
import compress.pruning.activation
import compress.pruning.batch_norm
import compress.pruning.element.baidu_rnn
import compress.pruning.element.global_ranking
import compress.pruning.element.level
import compress.pruning.element.lottery
import compress.pruning.element.semi_structured
import compress.pruning.element.splicing
import compress.pruning.element.threshold
import compress.pruning.filters
import compress.pruning.gradient
import compress.pruning.network_wide.global_groups
import compress.pruning.network_wide.greedy
import compress.pruning.network_wide.learned_ranking
import compress.pruning.network_wide.second_order
import compress.pruning.ranked
import compress.pruning.reconstruction
import compress.pruning.structure
import compress.quantization.dorefa
import compress.quantization.lsq
import compress.quantization.pact
import compress.quantization.range_linear
import compress.quantization.wrpn
import compress.regularization.drop_filter
import compress.regularization.group_terms
import compress.regularization.l1
import compress.thinning.removers  # noqa: F401
from compress.distillation.staged import StagedDistillation
from compress.epoch_window import EpochWindow
from compress.freezing import LayerFreezer
from compress.fusing.reparameterize import Reparameterize
from compress.policies.base import Policy
from compress.policies.distillation import DistillationPolicy
from compress.policies.freezing import FreezePolicy
from compress.policies.fusing import FusingPolicy
from compress.policies.lr import LRPolicy
from compress.policies.pruning import PruningPolicy
from compress.policies.quantization import QuantizationPolicy
from compress.policies.regularization import RegularizationPolicy
from compress.policies.stages import StagedPolicy
from compress.policies.thinning import ThinningPolicy
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from compress.registry import DISTILLERS, EXTENSIONS, LR_SCHEDULERS, PRUNERS, QUANTIZERS, REGULARIZERS, Registry


@dataclass(frozen=True)
class Instance:
    """A named instance of a schedule, checked.

    Attributes:
        name: as the schedule calls it.
        cls: its class.
        arguments: of the constructor, defaults filled in and selectors expanded.
        algorithm: the object; None for learning-rate schedulers, which their policy makes when it starts.
        network: a copy of the network as it will be when the instance acts; None where it is the one given.
    """

    name: str
    cls: type
    arguments: dict[str, Any]
    algorithm: Any
    network: nn.Module | None = None


@dataclass(frozen=True)
class Family:
    """How one section of a schedule becomes policies.

    Attributes:
        section: such as `pruners`.
        key: of a policy, such as `pruner`.
        registry: the classes.
        policy_class: whose keyword-only parameters are what `args` may hold.
        make: instance, window, optimizer, args -> policy.
        shared: whether one object serves all policies of an instance (False: each policy makes its own).
    """

    section: str
    key: str
    registry: Registry
    policy_class: type[Policy]
    make: Callable[[Instance, EpochWindow, Optimizer, dict[str, Any]], Policy]
    shared: bool = True


def _pruning(instance: Instance, window: EpochWindow, optimizer: Optimizer, args: dict[str, Any]) -> Policy:
    return PruningPolicy(instance.name, window, instance.algorithm, **args)


def _regularization(instance: Instance, window: EpochWindow, optimizer: Optimizer, args: dict[str, Any]) -> Policy:
    return RegularizationPolicy(instance.name, window, instance.algorithm, **args)


def _quantization(instance: Instance, window: EpochWindow, optimizer: Optimizer, args: dict[str, Any]) -> Policy:
    if issubclass(instance.cls, PostTrainLinearQuantizer):
        raise ValueError(
            f"{instance.cls.__name__} quantizes a network that is trained, so it has no policy: keep it in a file of "
            "its own and give that to `python test.py --quantize=FILE`, or leave the policy out and write "
            f"`quantize_after_training: {instance.name}` at the top level"
        )
    return QuantizationPolicy(instance.name, window, instance.algorithm, **args)


def _distillation(instance: Instance, window: EpochWindow, optimizer: Optimizer, args: dict[str, Any]) -> Policy:
    policy = StagedPolicy if issubclass(instance.cls, StagedDistillation) else DistillationPolicy
    return policy(instance.name, window, instance.algorithm, **args)


def _extension(instance: Instance, window: EpochWindow, optimizer: Optimizer, args: dict[str, Any]) -> Policy:
    kinds = {LayerFreezer: FreezePolicy, Reparameterize: FusingPolicy}
    policy = next((each for kind, each in kinds.items() if issubclass(instance.cls, kind)), ThinningPolicy)
    return policy(instance.name, window, instance.algorithm, **args)


def _lr(instance: Instance, window: EpochWindow, optimizer: Optimizer, args: dict[str, Any]) -> Policy:
    return LRPolicy(instance.name, window, optimizer, instance.cls, instance.arguments, **args)


FAMILIES = (
    Family("pruners", "pruner", PRUNERS, PruningPolicy, _pruning),
    Family("regularizers", "regularizer", REGULARIZERS, RegularizationPolicy, _regularization),
    Family("quantizers", "quantizer", QUANTIZERS, QuantizationPolicy, _quantization),
    Family("distillers", "distiller", DISTILLERS, DistillationPolicy, _distillation),
    Family("extensions", "extension", EXTENSIONS, ThinningPolicy, _extension),
    Family("lr_schedulers", "lr_scheduler", LR_SCHEDULERS, LRPolicy, _lr, shared=False),
)
