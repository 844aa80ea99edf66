"""One network of a comparison, and its row.

`Candidate`, `cost_row`.
"""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from apputils.compare.paired import Scores
from compress.analysis.macs.layers import macs_table
from compress.analysis.sparsity.totals import Sparsity
from compress.io.files import read_bytes

MOST_FILE = 1 << 34  # bytes of an ONNX file, which has at most 2 GB


@dataclass(frozen=True)
class Candidate:
    """A network that is compared.

    Attributes:
        name: how the table calls it; no two have the same.
        model: in eval mode.
        inputs: of one forward pass, on its device; MACs are counted and time is taken for them.
        quality: metric -> value on the test data.
        file: its ONNX file; None if it cannot be exported.
        facts: columns that say which network this is, such as its architecture, first in the table.
        scores: metric -> score of each image under each seed, (seeds, images); empty where images are not known.
        seeds: of a group; empty of a single network.
        seen: the first inputs that its evaluation gave it, on the CPU: real ones.
    """

    name: str
    model: nn.Module
    inputs: tuple[Tensor, ...]
    quality: Mapping[str, float]
    file: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Scores] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    seen: tuple[tuple[Tensor, ...], ...] = ()


def cost_row(candidate: Candidate) -> dict[str, Any]:
    """What a candidate costs, without time.

    Returns:
        parameters; macs and effective_macs (zeros skipped) of one forward pass; bitops (None for a float network);
        sparsity: the fraction of parameters that is zero; file_bytes and file_gzip_bytes of the ONNX file, as it is and
        packed (zeros pack well); None without a file.
    """
    total = macs_table(candidate.model, candidate.inputs).total
    content = read_bytes(candidate.file, MOST_FILE) if candidate.file is not None else None
    return {
        "parameters": total["parameters"],
        "macs": total["macs"],
        "effective_macs": total["effective_macs"],
        "bitops": total.get("bitops"),
        "sparsity": Sparsity.of(candidate.model, ()).overall,
        "file_bytes": None if content is None else len(content),
        "file_gzip_bytes": None if content is None else len(gzip.compress(content, 6)),
    }
