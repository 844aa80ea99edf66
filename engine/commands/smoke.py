"""A schedule tried out: every policy fires on a few batches, and each must have changed something.

`smoke`. Epochs keep their numbers, but only those are run in which something begins, is half done or ends, and each
has a few steps.
"""

import logging

from tabulate import tabulate
from torch.optim.lr_scheduler import ReduceLROnPlateau

from compress.errors import UserError
from compress.policies.base import Policy
from compress.policies.lr import LRPolicy
from compress.policies.policy_probe import Watched
from engine.trainer import BaseTrainer

logger = logging.getLogger("run")

STEPS = 4  # of each epoch
MOST_EPOCHS = 16
WORDS = {  # what changed -> how it is said, of {0} things called {1}
    "mask": "masks of {0} weights",
    "weight": "values of {0} weights",
    "layer": "kinds of {0} modules",
    "gradient": "gradients of {0} weights",
    "learning rate": "learning rate of {1}",
    "loss term": "loss term {1}",
}


def smoke(trainer: BaseTrainer) -> None:
    """Runs a trainer's schedule compressed in time, on its real data; writes nothing.

    Raises:
        UserError: a policy changed nothing.
    """
    trainer.steps_limit = STEPS
    trainer.build()
    scheduler = trainer.compression_scheduler
    scheduler.allow_skipped_epochs()
    watched = [Watched(policy) for policy in scheduler.policies]
    scheduler.policies = list(watched)
    epochs = sorted({0, *key_epochs([each.policy for each in watched])})  # 0: a proof wants a batch seen before it
    for epoch in epochs:
        losses = trainer.train(epoch, scheduler)
        scheduler.on_epoch_end(epoch, trainer.optimizer, trainer.scheduler_metrics(losses, {trainer.quality: 0.0}))
        logger.info("epoch %d: %d steps, loss %.5f", epoch, trainer.steps_per_epoch(), losses["loss"])
    logger.info("%s", _table(watched))
    idle = [each.name for each in watched if not each.changes and not _waits_for_a_metric(each.policy)]
    if idle:
        raise UserError(f"the smoke run failed: {', '.join(idle)} fired and changed nothing")
    logger.info("the smoke run passed: every policy fired and did something")


def key_epochs(policies: list[Policy]) -> list[int]:
    """The first, middle and last firing epoch of each policy, in order; without the middles when they are many."""
    ends = {epoch for policy in policies for epoch in (policy.window.first, policy.window.last)}
    middles = {policy.window.epochs[len(policy.window.epochs) // 2] for policy in policies}
    return sorted(ends | middles) if len(ends | middles) <= MOST_EPOCHS else sorted(ends)


def _table(watched: list[Watched]) -> str:
    rows = []
    for each in watched:
        done = [WORDS[what].format(len(names), ", ".join(sorted(names))) for what, names in each.changes.items()]
        idle = "nothing yet: it waits for its metric" if _waits_for_a_metric(each.policy) else "NOTHING"
        rows.append([each.name, type(each.policy).__name__, " ".join(map(str, each.epochs)), "; ".join(done) or idle])
    return "\n" + tabulate(rows, ["policy", "kind", "fired in epochs", "changed"], disable_numparse=True) + "\n"


def _waits_for_a_metric(policy: Policy) -> bool:
    return isinstance(policy, LRPolicy) and issubclass(policy.scheduler_class, ReduceLROnPlateau)
