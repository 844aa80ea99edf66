"""Every pruner and regularizer, killed anywhere and resumed from a file, ends with bit-identical weights."""

import inspect
import io
import textwrap

import pytest
import torch
import yaml

from compress.registry import PRUNERS, REGULARIZERS
from tests.compress.harness import Run, batch
from tests.compress.test_contract import sample_of

EPOCHS, STEPS = 2, 3
CLASSES = [
    *(("pruners", name, {}) for name in PRUNERS if not name.endswith("_AGP")),  # their state is that of the plain class
    *(("regularizers", name, {}) for name in REGULARIZERS),
]
DOUBLE = {"use_double_copies": True, "mask_on_forward_only": True}
LIVING = [
    ("pruners", f"{name}Pruner", DOUBLE) for name in ("Movement", "BernoulliFilter", "TaylorRankedFilter", "Splicing")
]


def make(section: str, name: str, args: dict) -> Run:
    """A run with the class as its docstring's sample has it, and few minibatches to gather."""
    registry = PRUNERS if section == "pruners" else REGULARIZERS
    data = yaml.safe_load(textwrap.dedent(sample_of(registry.get(name))))
    (instance,) = data[section].values()
    if "batches" in inspect.signature(registry.get(name)).parameters:
        instance["batches"] = 2
    entry = {section.removesuffix("s"): {"instance_name": "it", "args": args}, "epochs": list(range(EPOCHS))}
    graphs = ("GlobalRankedGroupPruner", "GreedyFilterPruner", "LearnedRankingPruner", "SecondOrderGroupPruner")
    inputs = batch(0, 0) if name in graphs else None
    return Run({section: {"it": instance}, "policies": [entry]}, steps=STEPS, example_inputs=inputs)


def train(run: Run, first: int, last: int) -> None:
    """The minibatches `first` to `last` (exclusive) of the whole run, with the hooks of epochs around them."""
    for number in range(first, last):
        epoch, step = divmod(number, STEPS)
        if step == 0:
            run.scheduler.on_epoch_begin(epoch, run.optimizer)
        run.step(epoch, step)
        if step == STEPS - 1:
            run.scheduler.on_epoch_end(epoch, run.optimizer)


@pytest.mark.parametrize(("section", "name", "args"), [*CLASSES, *LIVING])
def test_resumed_run_is_the_same_run(section, name, args):
    whole = make(section, name, args)
    train(whole, 0, EPOCHS * STEPS)
    for kill in (1, STEPS + 1):  # both inside the gathering of an epoch
        first = make(section, name, args)
        train(first, 0, kill)
        file = io.BytesIO()
        torch.save(first.save(), file)
        file.seek(0)
        second = make(section, name, args)
        second.load(torch.load(file, weights_only=True))
        train(second, kill, EPOCHS * STEPS)
        for key, value in whole.net.state_dict().items():
            assert torch.equal(value, second.net.state_dict()[key]), f"{key} differs when killed after {kill}"


@pytest.mark.parametrize("name", list(PRUNERS))
def test_masks_are_bool_of_the_weights_shape_and_what_is_masked_is_zero(name):
    run = make("pruners", name, {})
    train(run, 0, EPOCHS * STEPS)
    masked = run.scheduler.masks.masked()
    assert masked
    for masker in masked:
        assert masker.mask is not None
        assert masker.mask.dtype == torch.bool
        assert masker.mask.shape == masker.parameter.shape
        assert torch.count_nonzero(masker.parameter[~masker.mask]) == 0
        assert masker.mask.any(), "a sample that removes everything"
