"""`macs_display`: what each layer of a network costs, as table, workbook and roofline plot.

What is shown and written. Called through `apputils.platform_summaries`.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tabulate import tabulate
from torch import nn
from torch.utils import _pytree as pytree

from compress.analysis.macs.layers import MacsTable, layer_label, macs_table
from compress.analysis.macs.roofline import Machine, draw_roofline, measure_machine
from compress.analysis.workbook import Workbook, records, shape_text
from compress.arguments.checked import checks_arguments
from compress.graph.calls import calls_of
from compress.graph.trace import ExampleInputs
from compress.io.files import write_json
from compress.io.optional import on_use, require

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = on_use("pandas")

logger = logging.getLogger("run")


@checks_arguments
def macs_display(model: nn.Module, macs_file: str | Path, dummy_input: ExampleInputs) -> MacsTable:
    """Shows and writes what a network's layers cost.

    Args:
        model: the network; left as it was.
        macs_file: the workbook, such as `results/run/macs.xlsx`. Beside it, with the same stem: `.json` and the
            roofline plot `.png`, for which the input's device is measured for a moment.
        dummy_input: a tensor, or the tuple of `forward`'s arguments; gives shape and type only.

    Raises:
        UserError: the model cannot be traced, or a file cannot be written.
    """
    require("macs_display", "pandas", "openpyxl", "matplotlib")
    path = Path(macs_file)
    table = macs_table(model, dummy_input)
    leaves = pytree.tree_leaves(calls_of(dummy_input)[0].inputs)
    tensors = [each for each in leaves if isinstance(each, torch.Tensor)]
    machine = measure_machine(tensors[0].device if tensors else torch.device("cpu"))
    write_workbook(path, table, machine)
    content = {"inputs": table.input_shapes, "layers": records(table.layers), "total": table.total}
    content |= {"left_out": table.left_out} if table.left_out else {}
    write_json(path.with_suffix(".json"), {**content, "machine": asdict(machine)})
    draw_roofline(table, machine, path.with_suffix(".png"))
    logger.info("\n%s", macs_text(table))
    return table


def macs_text(table: MacsTable) -> str:
    """The table for a screen: a line a layer, the totals last."""
    quantized = "bitops" in table.layers
    lines = [
        [
            layer_label(row), row["operation"], shape_text(row["input_shape"]),
            shape_text(row["output_shape"]), f"{row['parameters']:,}", f"{row['macs']:,}",
            f"{100 * row['share']:.2f}", f"{row['effective_macs']:,}", f"{row['activation_bytes']:,}",
            *([f"{row['bitops']:,}"] if quantized else []),
        ]
        for row in table.layers.to_dict("records")
    ]  # fmt: skip
    total = table.total
    lines.append(
        ["total", "", "", "", f"{total['parameters']:,}", f"{total['macs']:,}", "100.00"]
        + [f"{total['effective_macs']:,}", f"{total['activation_bytes']:,}"]
        + ([f"{total['bitops']:,}"] if quantized else [])
    )
    headers = ["layer", "operation", "input", "output", "parameters", "MACs", "share %", "MACs, zeros skipped"]
    headers += ["activation bytes", *(["BitOps"] if quantized else [])]
    align = ["left"] * 4 + ["right"] * (len(headers) - 4)
    text = tabulate(lines, headers, disable_numparse=True, colalign=align, maxheadercolwidths=12)
    lost = f"\nnot counted: {', '.join(table.left_out)}" if table.left_out else ""
    return f"{text}\nactivations alive at once: at most {total['peak_activation_bytes']:,} bytes{lost}"


def write_workbook(path: Path, table: MacsTable, machine: Machine) -> None:
    """Sheets `macs` (with native charts) and `total`."""
    book = Workbook()
    shown = "; ".join(shape_text(shape) for shape in table.input_shapes)
    note = f"one forward pass of an input of {shown}; a MAC is one multiplication with its addition"
    if table.left_out:
        note += f"; not counted: {', '.join(table.left_out)}"
    sheet = book.add_table("macs", table.layers, percent=["share"], note=note)
    if len(table.layers):
        columns = ["macs", "effective_macs"]
        book.add_chart(sheet, "bar", x="layer", series=columns, title="MACs by layer", y_title="MACs")
        book.add_chart(sheet, "bar", x="layer", series=["parameters"], title="Parameters", y_title="elements")
    values = {**table.total, **{f"machine_{name}": value for name, value in asdict(machine).items()}}
    book.add_table("total", pd.DataFrame([{"quantity": name, "value": value} for name, value in values.items()]))
    book.save(path)
