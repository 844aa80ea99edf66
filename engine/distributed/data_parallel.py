"""The network as the training loop calls it: in several processes gradients become their mean.

`Replicas`, DistributedDataParallel made anew whenever the network has changed. In one process it is the network and
nothing else.

DistributedDataParallel sends gradients while the backward pass still runs. It waits for every parameter's gradient,
and holds on to the parameters that it was made for; compression breaks both. So the first step of an epoch sends
gradients after the backward pass, as many as there are. If that was every parameter's, the other steps go through
DistributedDataParallel, else they continue as the first: a stage of distillation, for one, trains a part of it.
"""

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from compress.distributed import average, several_processes, take_from_first
from compress.errors import UserError
from compress.selectors import canonical_parameters

Norm = nn.modules.batchnorm._NormBase


class Replicas:
    """The replicas of a network, one in each process; this one is called here.

    Args:
        model: the network, which a schedule may thin and quantize.
        call: what runs it: the network itself, or what torch.compile made of it.
        elsewhere: parameters in it that another optimizer trains, whose gradients are averaged there, too.
    """

    def __init__(self, model: nn.Module, call: nn.Module, elsewhere: Iterable[nn.Parameter] = ()) -> None:
        self.model, self._call = model, call
        self._elsewhere = {id(parameter) for parameter in elsewhere}
        self._wrapped: DistributedDataParallel | None = None
        self._made_for: tuple[Any, ...] = ()
        self._by_hand = True
        self._local = False

    def __call__(self, *inputs: Any) -> Any:
        """The forward pass, of this process's samples."""
        if self._by_hand or self._local or not several_processes():
            return self._call(*inputs)
        return self._distributed()(*inputs)

    def begin_epoch(self) -> None:
        """The next step finds out which parameters get gradients."""
        self._by_hand = True

    @contextmanager
    def locally(self) -> Iterator[None]:
        """Forward passes whose gradients stay here, and are sent with those of a later one that adds to them."""
        self._local = True
        try:
            yield
        finally:
            self._local = False

    def settle(self) -> None:
        """After a backward pass: gradients and BatchNorms' running statistics are equal in all processes.

        Raises:
            UserError: a parameter has no gradient that had one in the epoch's first step.
        """
        if not several_processes():
            return
        own = self._own()
        if self._by_hand:
            reached = [parameter for parameter in own.values() if parameter.grad is not None]
            average([parameter.grad for parameter in reached if parameter.grad is not None])
            # Parameters that got no gradient would make DistributedDataParallel wait for ever.
            self._by_hand = len(reached) < len(own)
        else:
            _refuse_unreached(own)
        average(_statistics(self.model))

    def end_epoch(self) -> None:
        """Whatever else the network has learned of the data becomes the first process's."""
        take_from_first(self.model.buffers())

    def _own(self) -> dict[str, nn.Parameter]:
        named = canonical_parameters(self.model).items()
        return {name: each for name, each in named if each.requires_grad and id(each) not in self._elsewhere}

    def _distributed(self) -> DistributedDataParallel:
        now = tuple((id(each), each.shape, each.requires_grad) for each in self.model.parameters())
        if self._wrapped is None or now != self._made_for:
            self._wrapped = None
            gc.collect()  # the old one hangs on the parameters by hooks, and those go with it
            self._wrapped, self._made_for = self._wrap(), now
        return self._wrapped

    def _wrap(self) -> DistributedDataParallel:
        devices = {parameter.device for parameter in self.model.parameters()}
        left = [name for name, parameter in self._call.named_parameters() if id(parameter) in self._elsewhere]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self._call, left)
        device = next(iter(devices))
        ids = [device.index] if device.type == "cuda" and len(devices) == 1 else None
        return DistributedDataParallel(self._call, device_ids=ids, forward_sync_buffers=False)


def synchronized(model: nn.Module, wanted: bool) -> nn.Module:
    """The network, if wanted with every BatchNorm a SyncBatchNorm, which takes the statistics of all processes."""
    return nn.SyncBatchNorm.convert_sync_batchnorm(model) if wanted else model


def _statistics(model: nn.Module) -> list[Tensor]:
    """Running means and variances."""
    norms = [module for module in model.modules() if isinstance(module, Norm) and module.running_mean is not None]
    return [each for norm in norms for each in (norm.running_mean, norm.running_var) if each is not None]


def _refuse_unreached(own: dict[str, nn.Parameter]) -> None:
    missing = [name for name, parameter in own.items() if parameter.grad is None]
    if missing:
        raise UserError(
            f"{len(missing)} parameters got no gradient in this step and had one in the epoch's first ({missing[0]}, "
            "...): several processes cannot train a network whose parts come and go within an epoch; train it in one"
        )
