"""Heads, and positions within heads: every kind of attention is thinned for real and computes the same."""

import copy

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.graph.macs.count import count_macs
from compress.thinning.attention.exchange import all_headed, as_headed
from compress.thinning.attention.modules import Headed
from compress.thinning.complete import complete_masks, masks_of
from compress.thinning.recipe import Recipe
from compress.thinning.thin import put_on, remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.attentions import KNOWN, WRITTEN, Literal, ScaledByWidth, build_attention

ALL = [*KNOWN, *WRITTEN]


def within(graph):
    return [group for group in graph.groups(prunable_only=True) if group.within_heads]


def one_of_each(graph):
    """The second unit of every group."""
    return {group.name: [1] for group in graph.groups(prunable_only=True)}


def forward(model, inputs, training=False):
    with torch.no_grad():
        return model.train(training)(inputs)


@pytest.mark.parametrize("name", KNOWN)
def test_an_explicit_head_size_changes_nothing(name):
    model, inputs = build_attention(name)
    for training in (False, True):
        before = forward(model, inputs, training)
        with all_headed(model) as names:
            assert len(names) == 1
            headed = forward(model, inputs, training)
        torch.testing.assert_close(headed, before, rtol=1e-12, atol=1e-12)
    assert not any(isinstance(module, Headed) for module in model.modules())
    assert "scale" not in vars(model)


@pytest.mark.parametrize("name", ALL)
def test_thinned_equals_masked_twice(name):
    model, inputs = build_attention(name)
    whole = Recipe()
    for _ in range(2):
        graph = prunable_graph(model, inputs)
        assert within(graph), graph.describe()
        removed = one_of_each(graph)
        masked = copy.deepcopy(model)
        put_on(masked, masks_of(graph, removed, dict(masked.named_parameters())))
        before = sum(parameter.numel() for parameter in model.parameters())
        recipe = remove_units(model, graph, removed, inputs).recipe
        whole = whole.then(recipe)
        assert sum(parameter.numel() for parameter in model.parameters()) < before
        for training in (False, True):
            old, new = forward(masked, inputs, training), forward(model, inputs, training)
            torch.testing.assert_close(new, old, rtol=1e-10, atol=1e-10)
    fresh = Recipe.from_dict(whole.to_dict()).apply(build_attention(name)[0])
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(forward(fresh, inputs), forward(model, inputs))


def test_the_worked_example():
    """Two heads of size 2: the rows and columns written down in the docstring of attention.py."""
    torch.manual_seed(0)
    model, inputs = nn.MultiheadAttention(4, 2, batch_first=True).double(), torch.randn(2, 3, 4, dtype=torch.float64)
    wrapped = nn.Sequential(SelfAttention(model))
    graph = prunable_graph(wrapped, inputs)
    rows, columns = ("0.attention.in_proj_weight", 0), ("0.attention.out_proj.weight", 1)
    heads, queries, values = graph.groups_of(*rows)
    assert [group.within_heads for group in (heads, queries, values)] == [False, True, True]
    assert heads.positions(rows, 1).tolist() == [2, 3, 6, 7, 10, 11]
    assert heads.positions(columns, 1).tolist() == [2, 3]
    assert queries.positions(rows, 0).tolist() == [0, 2, 4, 6]
    assert columns not in queries.members
    assert values.positions(rows, 0).tolist() == [8, 10]
    assert values.positions(columns, 0).tolist() == [0, 2]
    recipe = remove_units(wrapped, graph, {heads.name: [1], queries.name: [0], values.name: [0]}, inputs).recipe
    assert recipe.kept[rows[0]][0].tolist() == [1, 5, 9]
    assert recipe.kept[columns[0]][1].tolist() == [1]
    assert recipe.attributes["0.attention"] == {"num_heads": 1, "head_dim": 1, "value_dim": 1}
    assert recipe.headed == ("0.attention",)
    assert model.scale == pytest.approx(2**-0.5)
    # 6 tokens: 3 rows of 4, and 4 rows of 1; of each of 2 samples 3 x 3 scores and mixtures of 1 position
    assert count_macs(wrapped, inputs).total == 6 * (3 * 4 + 4) + 2 * (9 + 9)


class SelfAttention(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, x):
        return self.attention(x, x, x)[0]


def test_the_scale_of_the_softmax_stays():
    """Against the formula written out: what is left of queries and keys, times the size that heads had."""
    model, inputs = build_attention("multi-head, without biases")
    graph = prunable_graph(model, inputs)
    (queries,) = [group for group in within(graph) if "in_proj" in group.name]
    remove_units(model, graph, {queries.name: [0, 2]}, inputs)
    weight = model.attention.in_proj_weight
    q, k, v = inputs @ weight[:6].T, inputs @ weight[6:12].T, inputs @ weight[12:].T
    heads = []
    for head in range(3):
        a, b = q[..., 2 * head : 2 * head + 2], k[..., 2 * head : 2 * head + 2]
        heads.append(((a @ b.mT) * 4**-0.5).softmax(-1) @ v[..., 4 * head : 4 * head + 4])
    expected = torch.cat(heads, -1) @ model.attention.out_proj.weight.T
    torch.testing.assert_close(model(inputs), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["multi-head", "Swin v2", "written out"])
def test_optimizer_state_follows(name):
    model, inputs = build_attention(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(inputs).square().mean().backward()
    optimizer.step()
    before = {n: optimizer.state[p]["exp_avg"].clone() for n, p in model.named_parameters() if p in optimizer.state}
    graph = prunable_graph(model, inputs)
    recipe = remove_units(model, graph, one_of_each(graph), inputs, optimizer).recipe
    for key, parameter in model.named_parameters():
        if key in before:
            expected = recipe.slice(key, before[key])
            assert expected.shape == parameter.shape
            assert torch.equal(optimizer.state[parameter]["exp_avg"], expected)
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()


def test_zeros_within_heads_are_found():
    """Rows of one position that a regularizer cleared in every head: that unit goes, no head does."""
    model, inputs = build_attention("multi-head")
    masks = {"attention.in_proj_weight": torch.ones(36, 12, dtype=torch.bool)}
    masks["attention.in_proj_weight"][[2, 6, 10, 14, 18, 22]] = False
    completion = complete_masks(prunable_graph(model, inputs), masks, model)
    assert completion.removed == {"attention.in_proj_weight[0] within heads": [2]}
    assert (~completion.masks["attention.in_proj_bias"]).nonzero().flatten().tolist() == [2, 6, 10, 14, 18, 22]


@pytest.mark.parametrize(("make", "heads"), [(ScaledByWidth, True), (Literal, True)])
def test_a_head_size_that_the_code_fixes_stays(make, heads):
    torch.manual_seed(0)
    model, inputs = make().double(), torch.randn(2, 5, 12, dtype=torch.float64)
    graph = prunable_graph(model, inputs)
    assert not within(graph)
    assert bool(graph.groups(prunable_only=True)) == heads
    inner = [group for group in graph.groups() if group.within_heads]
    assert inner
    assert all("a trial showed that the size of a head is fixed in the code" in group.pinned[0] for group in inner)
    assert not graph.why_pinned("q.weight")
    removed = one_of_each(graph)
    masked = copy.deepcopy(model)
    put_on(masked, masks_of(graph, removed, dict(masked.named_parameters())))
    remove_units(model, graph, removed, inputs)
    assert model.num_heads == 2
    torch.testing.assert_close(model(inputs), masked(inputs), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("settings", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_attention_with_extra_keys_stays_as_it_is(settings):
    torch.manual_seed(0)
    model = SelfAttention(nn.MultiheadAttention(12, 3, batch_first=True, **settings)).double()
    inputs = torch.randn(2, 5, 12, dtype=torch.float64)
    graph = prunable_graph(model, inputs)
    assert graph.why_pinned("attention.in_proj_weight")
    assert not within(graph)


def test_names_of_groups_are_their_own():
    model, inputs = build_attention("Swin")
    names = [group.name for group in prunable_graph(model, inputs).groups()]
    assert len(set(names)) == len(names)
    inner = {"qkv.weight[0] within heads", "proj.weight[1] within heads"}
    assert {"relative_position_bias_table[1]", *inner} <= set(names)


def test_a_mix_in_is_put_on_once():
    model, _ = build_attention("Swin")
    as_headed(model)
    kind = type(model)
    model.head_dim = 2
    as_headed(model)
    assert type(model) is kind
    assert (model.head_dim, model.value_dim) == (2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multi-head", "Swin v2", "MaxViT"])
def test_the_export_of_thinned_attention_computes_the_same(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, inputs = build_attention(name)
    graph = prunable_graph(model, inputs)
    remove_units(model, graph, one_of_each(graph), inputs)
    model, inputs = model.float().eval(), inputs.float()
    torch.onnx.export(model, (inputs,), tmp_path / "thinned.onnx", dynamo=True)
    session = onnxruntime.InferenceSession(tmp_path / "thinned.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), forward(model, inputs), rtol=1e-4, atol=1e-5)


def test_a_recipe_that_names_no_attention_is_refused():
    model, _ = build_attention("Swin")
    with pytest.raises(UserError, match="'qkv' is not an attention that is known; nothing was changed"):
        Recipe(headed=("qkv",)).apply(model)
    with pytest.raises(UserError, match="'qkv' has no number 'head_dim'"):
        Recipe(attributes={"qkv": {"head_dim": 1}}).apply(model)
