"""ONNX files that read other files, call themselves, or become too many nodes."""

import os
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from compress.errors import UserError
from compress.export.exported_model import ExportedModel
from compress.export.onnx.trust import MOST_NODES, look_through

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
X, Y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")


def function(name: str, *calls: str) -> onnx.FunctionProto:
    """x -> y through these operations, those of ours by name."""
    nodes, last = [], "x"
    for i, call in enumerate(calls):
        after = "y" if i == len(calls) - 1 else f"t{i}"
        nodes.append(helper.make_node(call, [last], [after], domain="" if call == "Relu" else "own"))
        last = after
    return helper.make_function("own", name, ["x"], ["y"], nodes, OPSETS)


def model(nodes: list[onnx.NodeProto], functions: list[onnx.FunctionProto] | None = None) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [X], [Y])
    return helper.make_model(graph, opset_imports=OPSETS, functions=functions or [])


def own(name: str) -> onnx.NodeProto:
    return helper.make_node(name, ["x"], ["y"], domain="own")


def nested(depth: int) -> onnx.ModelProto:
    functions = [
        function("f0", "Relu", "Relu"),
        *(function(f"f{i}", f"f{i - 1}", f"f{i - 1}") for i in range(1, depth)),
    ]
    return model([own(f"f{depth - 1}")], functions)


def test_functions_that_become_too_many_nodes(here: Path) -> None:
    look_through(nested(16), "a.onnx")  # 65,536 nodes
    for depth in (18, 24, 3000):
        onnx.save(nested(depth), "a.onnx")
        with pytest.raises(
            UserError, match=r"a.onnx is refused: written out, its graph has .* nodes, and at most 200,000"
        ):
            ExportedModel("a.onnx")


def test_the_nodes_are_counted_as_onnx_writes_them_out() -> None:
    from onnx.inliner import inline_local_functions

    for depth in (1, 3, 5):
        assert len(inline_local_functions(nested(depth)).graph.node) == 2**depth
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("compress.export.onnx.trust.MOST_NODES", 31)
        with pytest.raises(UserError, match="has 32 nodes, and at most 31"):
            look_through(nested(5), "a.onnx")
    assert MOST_NODES > 100_000


@pytest.mark.parametrize("functions", [
    [function("f", "f")], [function("f", "g"), function("g", "f")], [function("f", "Relu"), function("g", "g")],
])  # fmt: skip
def test_functions_that_call_themselves(functions: list[onnx.FunctionProto]) -> None:
    with pytest.raises(UserError, match="is refused: its function '[fg]' calls itself"):
        look_through(model([own("f")], functions), "a.onnx")


def test_calls_in_a_subgraph_count() -> None:
    branch = helper.make_graph([own("f17")], "b", [], [Y])
    condition = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    deep = nested(18)
    with pytest.raises(UserError, match="written out"):
        look_through(model([condition], list(deep.functions)), "a.onnx")


def outside() -> onnx.TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=os.devnull)
    return tensor


@pytest.mark.parametrize("place", ["constant", "initializer", "sparse", "function", "subgraph", "attribute list"])
def test_weights_outside_of_the_file(place: str, here: Path) -> None:
    constant = helper.make_node("Constant", [], ["y"], value=outside())
    found = model([constant])
    if place == "initializer":
        found = model([helper.make_node("Relu", ["x"], ["y"])])
        found.graph.initializer.append(outside())
    elif place == "sparse":
        found = model([helper.make_node("Relu", ["x"], ["y"])])
        found.graph.sparse_initializer.add().values.CopyFrom(outside())
    elif place == "function":
        found = model([own("f")], [helper.make_function("own", "f", ["x"], ["y"], [constant], OPSETS)])
    elif place == "subgraph":
        branch = helper.make_graph([constant], "b", [], [Y])
        found = model([helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)])
    elif place == "attribute list":
        node = helper.make_node("Relu", ["x"], ["y"])
        node.attribute.add(name="a", type=onnx.AttributeProto.TENSORS).tensors.append(outside())
        found = model([node])
    Path("a.onnx").write_bytes(found.SerializeToString())
    with pytest.raises(UserError, match="a.onnx is refused: it has weights outside of the file"):
        ExportedModel("a.onnx")


@pytest.mark.parametrize("kind", ["Loop", "Scan"])
def test_what_could_run_for_ever_is_found_in_functions_too(kind: str) -> None:
    node = helper.make_node(kind, ["x"], ["y"])
    with pytest.raises(UserError, match=f"has a {kind}, which could run for ever"):
        look_through(model([own("f")], [helper.make_function("own", "f", ["x"], ["y"], [node], OPSETS)]), "a.onnx")
