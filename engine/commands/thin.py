"""A checkpoint made smaller by what is zero in it: `test.py --thin`, `train.py --resume RUN --thin`.

The checkpoint's content, cut like its network, and the file beside the original.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from apputils.checkpoints.file import load_checkpoint, save_checkpoint
from compress.distributed import is_first
from compress.errors import UserError
from compress.graph.calls import declare_unused
from compress.graph.trace import ExampleInputs
from compress.masks import packed, unpacked
from compress.parameters import copied
from compress.thinning.recipe import Recipe, cut_optimizer_state, cut_state
from compress.thinning.thin import Thinned, remove_units
from compress.thinning.trials.trial import prunable_graph
from compress.thinning.zeros import MASKING, in_both, zero_units
from engine.application import TestedApplication
from engine.environment import random_state, restore_random_state
from engine.saved.load_model import new_network
from engine.saved.rebuild import load_exact_weights, shape_as
from engine.saved.saved_options import usable
from options.applications import Application
from options.base_options import TestConfig

logger = logging.getLogger("run")
Content = dict[str, Any]


def thinned_content(
    content: Content, model: nn.Module, inputs: ExampleInputs, build_optimizer: Callable[[nn.Module], Optimizer] | None
) -> tuple[Content, Thinned]:
    """A checkpoint's content without its zero units: network, average, masks, optimizer and policies' states.

    Args:
        content: of the checkpoint; it is left as it is.
        model: its network, new and dense; it is changed.
        inputs: real ones, to prove on that nothing changes.
        build_optimizer: makes the run's optimizer for a network; None leaves the optimizer out of the result.

    Returns:
        the content (the same object if nothing is zero) and what was removed.

    Raises:
        UserError: the network is quantized, cannot be traced, or the proof failed.
    """
    scheduler = content["scheduler"]
    if scheduler.get("structures"):
        raise UserError(
            "the network is quantized, and quantized networks cannot be thinned: thin the float checkpoint of before "
            "(checkpoints/RUN/), then quantize. Nothing was thinned"
        )
    shape_as(model, scheduler)
    load_exact_weights(model, content["model"])
    averaged = _averaged(content, model)
    graph = prunable_graph(model, inputs)
    removed, notes = zero_units(graph, model, inputs)
    if averaged is not None:
        removed = in_both(removed, zero_units(graph, averaged, inputs)[0])
    result = remove_units(model, graph, removed, inputs, notes=notes)
    if not result.removed:
        return content, result
    _check_unchanged(result)
    cut = {**content, "model": model.state_dict(), "scheduler": _cut_scheduler(scheduler, result.recipe)}
    if averaged is not None:
        _check_unchanged(remove_units(averaged, graph, removed, inputs))
        cut["averaged"] = {**content["averaged"], "model": averaged.state_dict()}
    saved = cut.pop("optimizer", None)
    if saved is not None and build_optimizer is not None:
        cut["optimizer"] = cut_optimizer_state(result.recipe, model, build_optimizer(model), saved)
    return cut, result


def thinned_run(
    checkpoint: Content,
    loader: DataLoader[Any],
    example_inputs: Callable[[], tuple[torch.Tensor, ...]],
    build_optimizer: Callable[[nn.Module], Optimizer],
    best: Path,
    unused: Sequence[str] = (),
) -> tuple[Content, Thinned]:
    """A checkpoint that a run resumes from, without what is zero in it; its best one is thinned in its file.

    Args:
        checkpoint: of the run.
        loader: of its training data; its first samples prove that nothing changes, without a step of the loader.
        example_inputs: what the network can be traced with, where a minibatch does not begin with its input.
        build_optimizer: makes the run's optimizer for a network.
        best: the run's best checkpoint, which is measured in the end if no later epoch beats it.
        unused: parts of the network that nobody runs; see `declare_unused`.
    """
    data: Any = loader.dataset
    state = random_state()
    try:
        batch = next(iter(DataLoader(data, min(4, len(data)), collate_fn=loader.collate_fn)))
    finally:
        restore_random_state(state)
    inputs = batch[0] if isinstance(batch[0], torch.Tensor) else example_inputs()
    model = new_network(checkpoint)
    declare_unused(model, unused)
    found = thinned_content(checkpoint, model, inputs, build_optimizer)
    if best.is_file():  # last: where the run is refused, nothing has been written
        thin_file(best, inputs, build_optimizer, unused, write=is_first())
    return found


def thin_file(
    path: Path, inputs: ExampleInputs, build_optimizer: Callable[[nn.Module], Optimizer], unused: Sequence[str] = (),
    write: bool = True,
) -> None:  # fmt: skip
    """Replaces a checkpoint by its thinner self; one of which nothing can go is left as it is, which is logged.

    Args:
        path: of the checkpoint.
        inputs: see `thinned_content`.
        build_optimizer: see `thinned_content`.
        unused: see `thinned_run`.
        write: False for the other processes of several, which come to the same result.

    Raises:
        UserError: see `thinned_content`, or the file cannot be written.
    """
    before = load_checkpoint(path)
    model = new_network(before)
    declare_unused(model, unused)
    after, result = thinned_content(before, model, inputs, build_optimizer)
    logger.info("%s: %s", path, story(result, before, after))
    if result.removed and write:
        save_checkpoint(path, after)


def story(result: Thinned, before: Content, after: Content) -> str:
    """What was removed, in words; the notes say what stays."""
    notes = "".join(f"\n  {note}" for note in result.notes)
    if not result.removed:
        return f"nothing was thinned: no whole filter or channel is zero that can leave the network{notes}"
    old, new = (sum(tensor.numel() for tensor in each["model"].values()) for each in (before, after))
    listed = "".join(f"\n  {name}: {len(units)} units" for name, units in result.removed.items())
    units = sum(len(each) for each in result.removed.values())
    return (
        f"thinned: {units} zero units of {len(result.removed)} groups removed, elements {old:,} -> {new:,}; proved: "
        f"outputs differ by {result.difference:.1e} relative{listed}{notes}"
    )


def thin_subject(tester: TestedApplication) -> tuple[TestConfig, Content]:
    """Writes the thinner checkpoint of an evaluation beside the evaluated one.

    `best.pt` becomes `best_thin.pt`, or with `--overwrite` is replaced.

    Returns:
        the options and the checkpoint to continue with.

    Raises:
        UserError: see `thinned_content`, or the file cannot be written.
    """
    opt, path, before = tester.config, tester.file, tester.checkpoint
    done = dataclasses.replace(opt, thin=False, overwrite=False)
    model = tester.new_network(before["network"]["arguments"])
    build_optimizer = optimizer_of(before, tester.application)
    after, result = thinned_content(before, model, _first_inputs(tester), build_optimizer)
    logger.info("%s: %s", path, story(result, before, after))
    if not result.removed:
        return done, before
    if "optimizer" in before and "optimizer" not in after:
        logger.warning("the thinner checkpoint has no optimizer, so it can be evaluated and exported, not trained on")
    target = path if opt.overwrite else path.with_name(f"{path.stem}_thin{path.suffix}")
    save_checkpoint(target, after)
    logger.info("written: %s", target)
    return dataclasses.replace(done, model=str(target), run=None), after


def optimizer_of(checkpoint: Content, application: Application) -> Callable[[nn.Module], Optimizer]:
    """What makes the optimizer of a checkpoint's run."""
    base = application.load("train_options")().parse([])
    saved = usable(checkpoint["options"], type(base), checkpoint["run"])
    config = dataclasses.replace(base, **{**saved, "device": "cpu"})
    build: Callable[[nn.Module], Optimizer] = application.load("trainer")(config, None, None).build_optimizer
    return build


def _averaged(content: Mapping[str, Any], model: nn.Module) -> nn.Module | None:
    if not content.get("averaged"):
        return None
    averaged = copied(model)
    load_exact_weights(averaged, content["averaged"]["model"])
    return averaged


def _first_inputs(tester: TestedApplication) -> ExampleInputs:
    first = next(iter(tester.samples()))[0]
    return first if isinstance(first, torch.Tensor) else tester.example_inputs()


def _check_unchanged(result: Thinned) -> None:
    if result.masking_change > MASKING:
        raise UserError(
            f"without the zero units the outputs would differ by {result.masking_change:.1e} relative; nothing was "
            "thinned. Please report this network"
        )


def _cut_scheduler(state: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    masks = {name: _cut_mask(name, each, recipe) for name, each in state["masks"].items()} if "masks" in state else {}
    policies = [{**each, "state": cut_state(each["state"], recipe)} for each in state.get("policies", [])]
    return {
        **state,
        "recipes": [*state["recipes"], {**recipe.to_state(), "reasons": {}}],
        "masks": {name: each for name, each in masks.items() if each is not None},
        "policies": policies,
        "reasons": {},
    }


def _cut_mask(name: str, state: Mapping[str, Any], recipe: Recipe) -> dict[str, Any] | None:
    """A mask's state, cut; None where it no longer switches anything off."""
    saved = unpacked(state["mask"])
    mask = None if saved is None else recipe.slice(name, saved)
    if mask is None or bool(mask.all()):
        return None
    unmasked = state["unmasked_copy"]
    copied = None if unmasked is None else recipe.slice(name, unmasked)
    return {**state, "mask": packed(mask), "own": None, "coupled": {}, "unmasked_copy": copied}
