"""`draw_model_to_file`: a network's graph as PNG and SVG, with Graphviz out of pygraphviz's wheel.

Layout, colours, files. Called through `apputils.platform_summaries`.

Graphviz stacks a deep network into one narrow strip, so long ones are broken into columns, at the borders of modules:
each column starts at the top with the names of the boxes that it reads from other columns.
"""

from __future__ import annotations

import html
import itertools
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from compress.analysis.drawing.blocks import Block, blocks_of
from compress.analysis.drawing.native_stderr import without_lines
from compress.analysis.workbook import shape_text
from compress.arguments.checked import checks_arguments
from compress.errors import UserError
from compress.graph.calls import calls_of
from compress.graph.trace import ExampleInputs, trace_model
from compress.io.files import why, write_bytes
from compress.io.optional import on_use, require

if TYPE_CHECKING:
    import pandas as pd
    import pygraphviz
else:
    pd, pygraphviz = on_use("pandas"), on_use("pygraphviz")

logger = logging.getLogger("compress")
ColorBy = Literal["sparsity", "macs"]
ONE_COLUMN = 16  # boxes that fit below each other without scrolling
LOW, HIGH = (255, 255, 255), (86, 155, 214)
_TITLES = {"sparsity": "fraction of zeros in the weights", "macs": "share of the MACs"}


@checks_arguments
def draw_model_to_file(
    model: nn.Module, png_fname: str | Path, dummy_input: ExampleInputs, color_by: ColorBy = "sparsity"
) -> pd.DataFrame:
    """Draws a network.

    Args:
        model: the network; left as it was.
        png_fname: the image, such as `results/run/arch.png`; an SVG of the same stem is written beside it.
        dummy_input: a tensor, or the tuple of `forward`'s arguments; gives shape and type only. Of a list of calls the
            first is drawn, which the title and the log say.
        color_by: what darkens a box: the zeros of its weights, from none to all, or its part of the MACs, from none to
            the largest.

    Returns:
        One row a box: number, name, parts, shape, macs, sparsity, inputs (numbers of boxes).

    Raises:
        UserError: the model cannot be traced, or a file cannot be written.
    """
    require("draw_model_to_file", "pandas", "pygraphviz")
    path = Path(png_fname)
    blocks, title, calls = (
        blocks_of(trace_model(model, dummy_input), model),
        type(model).__name__,
        calls_of(dummy_input),
    )
    if len(calls) > 1:
        title += f" ({calls[0].method}, the first of {len(calls)} calls)"
        logger.warning("the drawing %s shows the first of %d example calls only", path, len(calls))
    graph = make_graph(blocks, title, color_by)
    try:
        with without_lines("Fontconfig warning"):
            graph.layout("dot")
            # Bytes: a file that pygraphviz opens cannot be written with Python 3.11.2, Debian 12's own.
            write_bytes(path.with_suffix(".svg"), graph.draw(format="svg"))
            graph.graph_attr["dpi"] = str(_dots(graph))
            write_bytes(path, graph.draw(format="png", prog="dot"))
    except OSError as e:
        raise UserError(f"the drawing {path} could not be written: {why(e)}") from e
    columns = ["number", "name", "parts", "shape", "macs", "sparsity", "inputs"]
    return pd.DataFrame([{name: getattr(block, name) for name in columns} for block in blocks], columns=columns)


def make_graph(blocks: list[Block], title: str, color_by: ColorBy) -> pygraphviz.AGraph:
    """The graph, not yet laid out."""
    graph = pygraphviz.AGraph(directed=True, strict=False, newrank=True, compound=True)
    legend = f"{title}: {_TITLES[color_by]}, from none (white) to {'all' if color_by == 'sparsity' else 'most'} (blue)"
    graph.graph_attr.update(
        label=legend, labelloc="t", fontname="Helvetica", fontsize="16", nodesep="0.3", ranksep="0.28", bgcolor="white"
    )
    graph.node_attr.update(
        shape="box", style="rounded,filled", fontname="Helvetica", fontsize="11", margin="0.12,0.05", color="#5a6b7b"
    )
    graph.edge_attr.update(color="#5a6b7b", arrowsize="0.6")
    most = max((block.macs for block in blocks), default=0) or 1
    for block in blocks:
        value = (block.sparsity or 0.0) if color_by == "sparsity" else block.macs / most
        graph.add_node(block.number, label=_label(block), fillcolor=_color(value))
    columns = columns_of(blocks)
    for number, column in enumerate(columns):
        _add_clusters(graph, column, number)
    _add_edges(graph, blocks, columns)
    return graph


def columns_of(blocks: list[Block]) -> list[list[Block]]:
    """The boxes in columns of about equal height, broken where the outer modules change."""
    if len(blocks) <= ONE_COLUMN:
        return [blocks]
    wanted = math.ceil(len(blocks) / math.sqrt(0.35 * len(blocks)))  # a page somewhat wider than high
    height = max(ONE_COLUMN, wanted)
    depth = _breaking_depth(blocks, height)
    columns: list[list[Block]] = [[]]
    for run in _runs(blocks, depth):
        if columns[-1] and len(columns[-1]) + len(run) > 1.25 * height:
            columns.append([])
        columns[-1] += run
    return columns


def _breaking_depth(blocks: list[Block], height: int) -> int:
    """How deep in the nesting columns may break, so that no run is much higher than a column."""
    deepest = max(len(block.cluster) for block in blocks)
    fitting = (depth for depth in range(1, deepest + 2) if max(map(len, _runs(blocks, depth))) <= 1.25 * height)
    return next(fitting, deepest + 1)


def _runs(blocks: list[Block], depth: int) -> list[list[Block]]:
    """Neighbours that lie in the same modules down to that depth; below the deepest, every box is its own."""
    runs: list[list[Block]] = []
    for block in blocks:
        key = _place(block, depth)
        if runs and key and _place(runs[-1][-1], depth) == key:
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


def _place(block: Block, depth: int) -> str:
    return block.cluster[depth - 1] if len(block.cluster) >= depth else ""


def _add_clusters(graph: pygraphviz.AGraph, column: list[Block], number: int) -> None:
    """Module nesting as boxes around boxes; a module of several columns has one part in each."""
    made: dict[str, Any] = {}
    for block in column:
        around = graph
        for name in block.cluster:
            if name not in made:
                shade = "#00000008"
                made[name] = around.add_subgraph(
                    name=f"cluster_{number}_{name}", label=name, labeljust="l", fontsize="11", fontcolor="#44525f",
                    style="rounded,filled", fillcolor=shade, color="#b5c0cb", labelloc="t", bgcolor=shade,
                )  # fmt: skip
            around = made[name]
        around.add_node(block.number)


def _add_edges(graph: pygraphviz.AGraph, blocks: list[Block], columns: list[list[Block]]) -> None:
    column_of = {block.number: number for number, column in enumerate(columns) for block in column}
    tops: dict[int, Any] = {number: column[0].number for number, column in enumerate(columns)}
    for block in blocks:
        here = column_of[block.number]
        for source in block.inputs:
            giver: Any = source
            if column_of[source] != here:
                giver = f"{source} in {here}"
                graph.add_node(giver, label=_reference(blocks[source]), shape="plaintext", style="")
                tops[here] = giver
            graph.add_edge(giver, block.number)
    if len(tops) > 1:
        graph.add_subgraph(list(tops.values()), name="tops", rank="min")
        for left, right in itertools.pairwise(tops.values()):
            graph.add_edge(left, right, style="invis")


def _reference(block: Block) -> str:
    """What stands at the head of a column for a box of another one."""
    where = block.name or ".".join(block.cluster[-1:])
    return f"<<i>from {html.escape(' '.join(part for part in (where, block.parts[0]) if part))}</i>>"


def _label(block: Block) -> str:
    """Name, what happens, the result's shape without its batch, and the figures that there are."""
    first, *more = block.parts
    lines = [f"<b>{html.escape(block.name)}</b>"] if block.name else []
    lines.append(html.escape(first if not more else f"{first} + {' + '.join(more[:3])}"))
    lines.append(f'<font color="#26323d">{shape_text(block.shape[1:]) or "scalar"}</font>')
    figures = [f"{_short(block.macs)} MACs"] if block.macs else []
    figures += [f"{100 * block.sparsity:.0f} % zero"] if block.sparsity is not None else []
    if figures:
        lines.append(f'<font color="#26323d">{", ".join(figures)}</font>')
    return "<" + "<br/>".join(lines) + ">"


def _color(value: float) -> str:
    mixed = (round(low + (high - low) * min(max(value, 0.0), 1.0)) for low, high in zip(LOW, HIGH, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _short(count: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _dots(graph: pygraphviz.AGraph) -> int:
    """Dots an inch, fewer for large drawings, so that viewers open them."""
    box = [float(each) for each in graph.graph_attr["bb"].replace(",", " ").split()]
    inches = max(box[2] - box[0], box[3] - box[1]) / 72
    return int(min(130, max(48, 12000 / max(inches, 1))))
