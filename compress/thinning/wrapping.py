"""DistributedDataParallel around a network that has been thinned.

`rewrap`, in place, so that the training loop's object stays the same one.
"""

import gc

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from compress.distributed import several_processes
from compress.selectors import unwrapped

HOOKS = [name for name in vars(nn.Module()) if "hooks" in name]


def rewrap(model: nn.Module) -> None:
    """Gives every DistributedDataParallel in or around a model buckets of the parameters' present shapes.

    Its reducer was made for the old shapes, and hangs on the parameters by hooks that go with it.
    """
    for wrapper in _wrappers(model):
        network, hooks = wrapper.module, {name: getattr(wrapper, name) for name in HOOKS}
        settings = {
            "device_ids": wrapper.device_ids,
            "output_device": wrapper.output_device,
            "dim": wrapper.dim,
            "forward_sync_buffers": wrapper.forward_sync_buffers,
            "process_group": wrapper.process_group,
            "find_unused_parameters": wrapper.find_unused_parameters,
            "gradient_as_bucket_view": wrapper.gradient_as_bucket_view,
            "static_graph": wrapper.static_graph,
        }
        wrapper.__dict__.clear()  # the old reducer goes first, and its hooks with it
        gc.collect()
        fresh = DistributedDataParallel(network, **settings)
        wrapper.__dict__.update(vars(fresh))
        wrapper.__dict__.update(hooks)


def _wrappers(model: nn.Module) -> list[DistributedDataParallel]:
    """Those in the model and those that a training loop has put around it later, which the model knows nothing of."""
    if not several_processes():
        return []
    gc.collect()  # one that nobody holds any more does not count
    network = unwrapped(model)
    alive = [each for each in gc.get_objects() if issubclass(type(each), DistributedDataParallel)]
    around = [each for each in alive if any(inner is network for inner in each.modules())]
    inside = [each for each in model.modules() if isinstance(each, DistributedDataParallel)]
    return list(dict.fromkeys([*inside, *around]))
