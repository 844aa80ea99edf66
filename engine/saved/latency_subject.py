"""The network and inputs of a run that a latency model is measured for."""

import torch
from torch import Tensor, nn

from apputils.checkpoints.file import load_checkpoint
from apputils.checkpoints.schema import check_run
from apputils.runs.folders import find_run
from compress.errors import UserError
from engine.saved.find_checkpoint import find_subject
from engine.saved.load_model import load_network
from options.applications import find_application


def latency_subject(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The best network of a dense run, on the CPU, and the inputs that its times are for.

    They have the sizes of those of `test.py`'s MACs and hold noise: no range for 8 bits can be estimated from zeros.

    Raises:
        UserError: there is no such run, or its network is thinned or quantized.
    """
    run = find_run(name)
    checkpoint = check_run(load_checkpoint(run.best), run.best)
    scheduler = checkpoint["scheduler"]
    if scheduler["recipes"] or scheduler.get("structures"):
        raise UserError(f"the network of {name} is thinned or quantized; a latency model is of a dense one")
    application = find_application(checkpoint["optform"])
    opt, _ = find_subject(application.load("test_options")().parse([f"--run={name}"]))
    tester = application.load("tester")(opt, application.load("testing_loader")(opt, checkpoint), checkpoint)
    return load_network(run.best).cpu(), tuple(_noise(each) for each in tester.example_inputs())


def _noise(like: Tensor) -> Tensor:
    if not like.is_floating_point():
        return like.cpu()
    return torch.rand(like.shape, dtype=like.dtype, generator=torch.Generator().manual_seed(0))
