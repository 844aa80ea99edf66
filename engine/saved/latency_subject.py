"""The network and inputs of a run that a latency model is measured for."""

from torch import Tensor, nn

from apputils.checkpoints.file import load_checkpoint
from apputils.checkpoints.schema import check_run
from apputils.runs.folders import find_run
from compress.errors import UserError
from engine.saved.find_checkpoint import find_subject
from engine.saved.load_model import load_network
from options.applications import find_application


def latency_subject(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The best network of a dense run, on the CPU, and the inputs that its times are for: those of `test.py`'s MACs.

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
    return load_network(run.best).cpu(), tuple(each.cpu() for each in tester.example_inputs())
