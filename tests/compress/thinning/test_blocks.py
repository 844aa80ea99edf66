"""Every structure, thinned for real: equal to the masked network, smaller, and still trainable."""

import copy
import io

import pytest
import torch
from torch.utils import _pytree as pytree

from compress.graph.macs.count import count_macs
from compress.thinning.complete import masks_of
from compress.thinning.recipe import Recipe
from compress.thinning.thin import put_on, remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.blocks import BLOCKS, build


def third(graph):
    """About a third of the units of every group, spread out."""
    units = {group.name: list(range(1, group.units, 3)) for group in graph.groups(prunable_only=True)}
    return {name: found for name, found in units.items() if found}


def forward(model, inputs, training):
    """Outputs by plain PyTorch, dropout off: not through the code under test."""
    model.train(training)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    with torch.no_grad():
        return called(model, inputs)


def called(model, inputs):
    """All tensors that come out, however they are nested."""
    return pytree.tree_leaves(model(*inputs) if isinstance(inputs, tuple) else model(inputs))


@pytest.mark.parametrize("name", BLOCKS)
def test_thinned_equals_masked(name):
    model, inputs = build(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train_step(model, inputs, optimizer)
    graph = prunable_graph(model, inputs)
    removed = third(graph)
    assert removed, graph.describe()
    masked = copy.deepcopy(model)
    put_on(masked, masks_of(graph, removed, dict(masked.named_parameters())))
    before = count_macs(model, inputs)
    result = remove_units(model, graph, removed, inputs, optimizer)
    after = count_macs(model, inputs)
    assert after.parameters < before.parameters
    assert after.total < before.total
    for training in (False, True):
        for old, new in zip(forward(masked, inputs, training), forward(model, inputs, training), strict=True):
            torch.testing.assert_close(new, old, rtol=1e-10, atol=1e-10)
    expected = {key: result.recipe.slice(key, tensor) for key, tensor in masked.named_buffers()}
    for key, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, expected[key], rtol=1e-10, atol=1e-10)
    train_step(model, inputs, optimizer)
    fresh = from_file(name, result.recipe, model)
    for new, old in zip(forward(fresh, inputs, False), forward(model, inputs, False), strict=True):
        assert torch.equal(new, old)


def train_step(model, inputs, optimizer):
    model.train()
    outputs = called(model, inputs)
    optimizer.zero_grad()
    sum(out.square().mean() for out in outputs).backward()
    optimizer.step()


def from_file(name, recipe, model):
    """A fresh network of the same code, made smaller by what a file holds."""
    file = io.BytesIO()
    torch.save({"recipe": recipe.to_dict(), "state": model.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = Recipe.from_dict(saved["recipe"]).apply(build(name)[0])
    fresh.load_state_dict(saved["state"])
    return fresh


@pytest.mark.parametrize("name", ["residual", "C2f", "transformer", "many groups", "language model"])
def test_thinning_twice_is_one_composed_recipe(name):
    model, inputs = build(name)
    recipe = Recipe()
    for _ in range(2):
        graph = prunable_graph(model, inputs)
        recipe = recipe.then(remove_units(model, graph, third(graph), inputs).recipe)
    fresh = from_file(name, recipe, model)
    for new, old in zip(forward(fresh, inputs, False), forward(model, inputs, False), strict=True):
        assert torch.equal(new, old)
