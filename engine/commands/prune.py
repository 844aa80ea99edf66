"""A run's network pruned in one shot, without training: `test.py --prune`.

    python test.py --prune=macs=0.7

`PruneRequest`: the budget, calibration data, dense beside pruned and beside L1 norms, files.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any, cast

from tabulate import tabulate
from torch import nn

from apputils.checkpoints.file import save_checkpoint
from compress.analysis.measured_words import measured_words
from compress.analysis.metric_names import words_of
from compress.errors import UserError, some
from compress.export.onnx.qdq import is_quantized
from compress.io.files import write_json
from compress.io.progress import said_when_long
from compress.pruning.one_shot.prune import COUNTED, Counted, OneShot, prune_by_norms, prune_one_shot
from engine.application import TestedApplication
from engine.commands.quantize import GENERATED, calibration_data, generated_data, kind_of
from engine.commands.thin import Content, thinned_content
from options.base_options import TestConfig
from options.own_network import to_type_again

logger = logging.getLogger("run")
FILE, CHECKPOINT = "one_shot.json", "pruned.pt"
DENSE, NORMS, PRUNED = "dense", "L1 norms", "pruned"
PROOF_SAMPLES = 4


@dataclass(frozen=True)
class PruneRequest:
    """What the options ask for.

    Attributes:
        target: of the budget.
        to: what may be left of it, a fraction of the network's.
        batches: minibatches to calibrate with.
        generated: they are generated from the network's BatchNorm statistics; else training data.
    """

    target: Counted
    to: float
    batches: int
    generated: bool

    @classmethod
    def of(cls, opt: TestConfig) -> "PruneRequest | None":
        """Reads the options; None without `--prune`.

        Raises:
            UserError: a value means nothing; what goes together is in options/rules.py.
        """
        if opt.prune is None:
            return None
        target, _, number = opt.prune.partition("=")
        try:
            to = float(number)
        except ValueError:
            to = 0.0
        if target not in COUNTED or not 0 < to < 1:
            raise UserError(
                f"--prune={opt.prune}: give macs=X or params=X, X what may be left as a fraction of the network's, "
                "such as macs=0.7; nothing was started"
            )
        return cls(cast(Counted, target), to, opt.calibration, opt.calibration_data == GENERATED)

    def run(self, tester: TestedApplication) -> dict[str, Any]:
        """Prunes, thins with proof, measures on the test data, writes; returns what one_shot.json holds.

        In results/<run>/: pruned.pt, which `test.py --model` takes.

        Raises:
            UserError: the network is quantized, nothing of it can leave, or the proof failed.
        """
        started, model = time.perf_counter(), tester.build_model()
        if is_quantized(model):
            raise UserError(f"--prune: the network of {tester.file} is quantized; prune before that; nothing was done")
        if self.generated:
            batches = generated_data(tester, model, self.batches)
        else:
            batches, _ = calibration_data(tester, self.batches)
        samples = sum(len(batch) for batch in batches)
        logger.info("pruning with %d %s samples in %d minibatches", samples, kind_of(self.generated), len(batches))
        found = prune_one_shot(model, batches, self.to, self.target)
        with said_when_long("pruning by norms, to compare with"):
            norms = prune_by_norms(model, batches, self.to, self.target)
        with said_when_long("removing the units, with proof"):
            content, network = _thinned(tester, found, batches)
        with said_when_long("measuring three networks: dense, pruned by norms, pruned"):
            measured = {DENSE: tester.test(model), NORMS: tester.test(norms.network), PRUNED: tester.test(network)}
        result = self._result(tester, found, norms, measured, samples)
        result["parameters"] = [sum(p.numel() for p in each.parameters()) for each in (model, network)]
        result["seconds"] = round(time.perf_counter() - started, 1)
        save_checkpoint(tester.results / CHECKPOINT, content)
        write_json(tester.results / FILE, result)
        _tell(tester, result)
        return result

    def _result(
        self, tester: TestedApplication, found: OneShot, norms: OneShot, measured: dict[str, dict[str, float]],
        samples: int,
    ) -> dict[str, Any]:  # fmt: skip
        """What one_shot.json holds."""
        name, trivial = tester.baseline()
        metrics = list(measured[DENSE])
        quality = {m: {name: trivial[m], **{way: each[m] for way, each in measured.items()}} for m in metrics}
        return {
            "run": tester.folders.name,
            "target": self.target,
            "to": self.to,
            "left": {PRUNED: found.left, NORMS: norms.left},
            "samples": samples,
            "calibration_data": kind_of(self.generated),
            "quality": quality,
            # no claim where L1 norms are pruned with statistics that do not fit
            "recovered": {
                m: None if norms.uncarried else recovered(each[DENSE], each[NORMS], each[PRUNED])
                for m, each in quality.items()
            },
            "uncarried": list(norms.uncarried),
            "removed": {group: len(units) for group, units in found.removed.items()},
            "layer_error_left": found.error,
            "notes": list(found.notes),
            "measured_on": tester.data_facts(),
        }


def recovered(dense: float, norms: float, pruned: float) -> float | None:
    """The share of what pruning by norms loses that the pruned network keeps; None where norms lose nothing.

    >>> recovered(90.0, 50.0, 80.0)
    0.75
    >>> recovered(31.41, 31.47, 31.41)
    """
    lost = dense - norms
    return (pruned - norms) / lost if lost > 0 else None


def _thinned(tester: TestedApplication, found: OneShot, batches: list[Any]) -> tuple[Content, nn.Module]:
    """The pruned network without its zero units, and a checkpoint of it."""
    before = {**tester.checkpoint, "model": found.network.state_dict(), "averaged": None}
    network = tester.new_network(tester.checkpoint["network"]["arguments"]).to(tester.device)
    content, thinned = thinned_content(before, network, batches[0][:PROOF_SAMPLES], None)
    for note in (*found.notes, *thinned.notes):
        logger.warning("%s", note)
    if content is before:  # nothing could leave the network
        content = {key: value for key, value in before.items() if key != "optimizer"}
    return content, network.eval()


def _why_empty(result: dict[str, Any]) -> str:
    """Of the column `recovered`."""
    if names := result["uncarried"]:
        return f"; it is empty: the statistics that {some(names)} hold are not carried over, which L1 norms suffer from"
    return "; where it is empty they lose nothing" if None in result["recovered"].values() else ""


def _tell(tester: TestedApplication, result: dict[str, Any]) -> None:
    rows = [
        [words_of(metric).heading, *each.values(), *([share if share is None else 100 * share])]
        for (metric, each), share in zip(result["quality"].items(), result["recovered"].values(), strict=True)
    ]
    heads = ["quality", *next(iter(result["quality"].values())), "recovered, %"]
    logger.info("\n%s\nmeasured on %s\n", tabulate(rows, heads, floatfmt=".2f"), measured_words(result["measured_on"]))
    left, before_after = result["left"], result["parameters"]
    logger.info(
        "%s left: %.1f %% (by L1 norms %.1f %%); parameters %s -> %s; recovered is the share of what L1 norms, with "
        "BatchNorm's statistics carried over too, lose%s",
        result["target"], 100 * left[PRUNED], 100 * left[NORMS], *(f"{count:,}" for count in before_after),
        _why_empty(result),
    )  # fmt: skip
    path = tester.results / CHECKPOINT
    more = to_type_again(tester.config)
    logger.info("written: %s, %s\nnext: python test.py --model=%s%s", tester.results / FILE, CHECKPOINT, path, more)
