"""Options that cannot work together, or not here: reported before training starts.

The one table of such combinations, and its check. Called by the trainer when everything is built.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from compress.config.goals import goals_of
from compress.distributed import world_size
from compress.errors import UserError
from compress.policies.distillation import DistillationPolicy
from compress.policies.freezing import FreezePolicy
from compress.policies.quantization import QuantizationPolicy
from engine.architectures.early_checks import Probe, one_sample_fault
from engine.goals.on_device import check_devices
from engine.state import TrainState
from options.base_options import TrainConfig


@dataclass(frozen=True)
class Setup:
    """What is looked at.

    Attributes:
        config: the options.
        state: of the run, built.
        device: that it trains on.
        loader: of the training data; None where none were loaded.
        probes: small inputs of one sample, see `TrainedApplication.probes`.
    """

    config: TrainConfig
    state: TrainState
    device: torch.device
    loader: DataLoader[Any] | None
    probes: Iterable[Probe] = ()

    @property
    def minibatches(self) -> int | None:
        """In an epoch of this process; None where no data were loaded."""
        return None if self.loader is None else len(self.loader)


@dataclass(frozen=True)
class Combination:
    """What cannot work.

    Attributes:
        options: what was given, for the message.
        holds: whether it is the case.
        why: the reason, and what to do; a clause.
    """

    options: str
    holds: Callable[[Setup], bool]
    why: str


def _distils(setup: Setup) -> bool:
    return any(isinstance(policy, DistillationPolicy) for policy in setup.state.scheduler.policies)


def _folds(setup: Setup) -> bool:
    policies = setup.state.scheduler.policies
    return any(isinstance(policy, QuantizationPolicy) and policy.quantizer.folds for policy in policies)


def _has_batch_norm(setup: Setup) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in setup.state.model.modules())


def _given(setup: Setup, option: str) -> bool:
    """Whether a switch was given now; what a resumed run of several processes had does not apply to one."""
    config = setup.config
    return bool(getattr(config, option)) and (config.resume is None or option in config.explicit)


COMBINATIONS = (
    Combination(
        "--accumulate with a distiller",
        lambda t: t.config.accumulate > 1 and _distils(t),
        "a distiller compares the outputs of one forward pass, an update has several; take a larger --batchSize",
    ),
    Combination(
        "--accumulate with a GAN",
        lambda t: t.config.accumulate > 1 and bool(t.state.companions),
        "the discriminator would be updated for each part of an update of the generator; take a larger --batchSize",
    ),
    Combination(
        "--accumulate",
        lambda t: t.minibatches is not None and t.config.accumulate > t.minibatches,
        "one update would take more minibatches than an epoch has in this process; give less",
    ),
    Combination(
        "--sync-batchnorm",
        lambda t: _given(t, "sync_batchnorm") and world_size() == 1,
        "there is one process, so every minibatch has statistics of its own; leave it out, or start more by torchrun",
    ),
    Combination(
        "--sync-batchnorm on a CPU",
        lambda t: t.config.sync_batchnorm and world_size() > 1 and t.device.type != "cuda",
        "SyncBatchNorm needs CUDA devices; leave it out (--no-sync-batchnorm where a resumed run has it), each process "
        "then normalises by its own samples' statistics",
    ),
    Combination(
        "--sync-batchnorm",
        lambda t: t.config.sync_batchnorm and not _has_batch_norm(t),
        "the network has no BatchNorm; leave it out",
    ),
    Combination(
        "--sync-batchnorm with fold_batchnorm",
        lambda t: t.config.sync_batchnorm and _folds(t),
        "a SyncBatchNorm is not folded; leave one of the two out",
    ),
    Combination(
        "--compile in several processes",
        lambda t: t.config.compile and world_size() > 1,
        "torch.compile together with DistributedDataParallel is not proved here yet; leave one of the two out "
        "(--no-compile where a resumed run has it)",
    ),
    Combination(
        "--check-ranks",
        lambda t: _given(t, "check_ranks") and world_size() == 1,
        "there is one process and nothing to compare; leave it out, or start several by torchrun",
    ),
)


def refuse_combinations(setup: Setup) -> None:
    """Refuses what cannot work.

    Raises:
        UserError: every such combination, in one report; or the network cannot take the last minibatch, or a goal's
            times are of another network.
    """
    found = [each for each in COMBINATIONS if each.holds(setup)]
    if found:
        raise UserError("; ".join(f"{each.options}: {each.why}" for each in found) + ". Nothing was started")
    _check_last_minibatch(setup)
    if setup.config.resume is None:  # a resumed run's network may be thinned already
        check_devices(goals_of(setup.state.scheduler.resolved), setup.state.model)


def _check_last_minibatch(setup: Setup) -> None:
    """Refuses an epoch that ends with a single sample where the network, such as one with BatchNorm, needs two."""
    size, samples = getattr(setup.loader, "batch_size", None), len(getattr(setup.loader, "sampler", ()))
    frozen = any(isinstance(policy, FreezePolicy) for policy in setup.state.scheduler.policies)  # perhaps the norms
    probe = next(iter(setup.probes), None)
    if not size or not _ends_with_one(samples, size) or setup.loader.drop_last or frozen or probe is None:  # type: ignore[union-attr]
        return
    fault = one_sample_fault(setup.state.model, probe)
    if fault is None:
        return
    others = [each for each in (*range(size - 1, 1, -1), size + 1) if not _ends_with_one(samples, each)]
    remedy = f"give another --batchSize, such as {others[0]}" if others else "add samples"
    each = "each minibatch has" if size == 1 else "the last minibatch of an epoch has"
    raise UserError(
        f"--batchSize={size}: of {samples:,} samples {each} one, which the network cannot be trained on: {fault}; "
        f"{remedy}. Nothing was started"
    )


def _ends_with_one(samples: int, size: int) -> bool:
    return samples > 0 and (size == 1 or samples % size == 1)
