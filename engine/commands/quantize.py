"""A run's network quantized after training: `test.py --quantize`.

`QuantizeRequest`: which settings, calibration data, float beside quantized, files.

    python test.py --quantize=ptq.yaml                       a file of settings
    python test.py --quantize=auto --max-drop=0.1            the ladder: the cheapest that keeps the metric
    python test.py --quantize=mixed --bits-budget=size:0.15  bits for each layer under a budget
"""

import copy
import itertools
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tabulate import tabulate
from torch import nn

from apputils.checkpoints.file import save_checkpoint
from compress.analysis.metric_names import words_of
from compress.analysis.sensitivity.evaluation import directions, loss_of
from compress.calibration.generated import generate_inputs
from compress.config.post_training import load_post_training
from compress.errors import UserError, did_you_mean
from compress.export.onnx.qdq import is_quantized
from compress.io.files import write_json
from compress.quantization.decision import Bits
from compress.quantization.post_training.ladder import Ladder, climb_ladder
from compress.quantization.post_training.mixed_precision import Kind, MixedPrecision
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from engine.application import TestedApplication
from engine.commands.export import export_run, seen_inputs
from engine.saved.after_training import quantized_checkpoint
from options.base_options import TestConfig

logger = logging.getLogger("run")
AUTO, MIXED, MAX_DROP, GENERATED = "auto", "mixed", 0.1, "generated"
SCHEDULES = Path(__file__).resolve().parents[2] / "schedules"


@dataclass(frozen=True)
class QuantizeRequest:
    """What the options ask for.

    Attributes:
        settings: `auto`, `mixed`, or a file's name.
        max_drop: of `auto`, in the unit of the first metric.
        budget: of `mixed`, a share of the float network's cost.
        kind: of that cost.
        batches: minibatches to calibrate with.
        generated: they are generated from the network's BatchNorm statistics; else training data.
    """

    settings: str
    max_drop: float
    budget: float
    kind: Kind
    batches: int
    generated: bool

    @classmethod
    def of(cls, opt: TestConfig) -> "QuantizeRequest | None":
        """Reads the options; None without `--quantize`.

        Raises:
            UserError: a value means nothing; what goes together is in options/rules.py.
        """
        if opt.quantize is None:
            return None
        kind, budget = _budget(opt.bits_budget) if opt.bits_budget is not None else ("size", 1.0)
        drop = MAX_DROP if opt.max_drop is None else opt.max_drop
        return cls(opt.quantize, drop, budget, kind, opt.calibration, opt.calibration_data == GENERATED)

    def run(self, tester: TestedApplication) -> dict[str, Any]:
        """Quantizes, measures float and quantized on the test data, writes; returns what post_training.json holds.

        In results/<run>/: quantized.pt, which `test.py --model` takes, activation_stats.yaml, and the exported files.
        """
        started, model = time.perf_counter(), tester.build_model()
        if is_quantized(model):
            raise UserError(f"--quantize: the network of {tester.file} is quantized already; nothing was done")
        result: dict[str, Any] = {"run": tester.folders.name, "settings": self.settings}
        network, quantizer = self._quantized(tester, model, result)
        own = tester.test(model)
        with seen_inputs(network) as inputs:
            quality = tester.test(network)
        name, trivial = tester.baseline()
        result["quality"] = {
            metric: {name: trivial[metric], "float": own[metric], "quantized": quality[metric]} for metric in own
        }
        result |= {"bits": quantizer.bits_table(), "float_parts": quantizer.left_float, "notes": quantizer.notes}
        result["seconds"] = round(time.perf_counter() - started, 1)
        self._write(tester, network, quantizer, result)
        logger.info("\n%s\n", _quality_table(result["quality"], name))
        if tester.config.export:
            export_run(tester, network, inputs, quality)
        return result

    def _quantized(
        self, tester: TestedApplication, model: nn.Module, result: dict[str, Any]
    ) -> tuple[nn.Module, PostTrainLinearQuantizer]:
        file = None if self.settings in (AUTO, MIXED) else self._file(tester)  # first: it may not be there
        if self.generated:
            batches, validation = generated_data(tester, model, self.batches), None
        else:
            batches, validation = calibration_data(tester, self.batches)
        result |= {"samples": sum(len(batch) for batch in batches), "calibration_data": kind_of(self.generated)}
        if self.settings == AUTO:
            assert validation is not None, "options/rules.py"
            _say_samples(batches, result)
            ladder = self._climb(tester, model, batches, validation, result)
            assert ladder.network is not None
            assert ladder.quantizer is not None
            return ladder.network, ladder.quantizer
        quantizer = load_post_training(model, file or self._mixed(tester, model, batches), batches[0])
        _say_samples(batches, result)  # not before the settings are known to be right
        return quantizer.quantize(model, batches), quantizer

    def _climb(
        self, tester: TestedApplication, model: nn.Module, batches: list[Any], validation: Iterable[Any],
        result: dict[str, Any],
    ) -> Ladder:  # fmt: skip
        judge = copy.copy(tester)  # the rung is chosen on validation data: test data must not choose anything
        judge.testing_loader = validation  # type: ignore[assignment]
        dense = judge.test(model)
        metric = next(iter(dense))
        better = directions(dense, tester.higher_is_better)[metric]
        ladder = climb_ladder(
            model, batches, lambda net: loss_of(judge.test(net)[metric], dense[metric], better), self.max_drop
        )
        assert ladder.chosen is not None
        result["ladder"] = {
            "metric": metric,
            "data": "validation",
            "max_drop": self.max_drop,
            "chosen": ladder.chosen.name,
            "within": ladder.within,
            "rungs": [vars(rung) for rung in ladder.tried],
        }
        logger.info("\n%s\n", _ladder_table(ladder, metric))
        if not ladder.within:
            logger.warning(
                "no rung stays within %g of %s; the least bad one, %r, is kept. Train with a quantizer, or "
                "leave sensitive layers float by overrides", self.max_drop, metric, ladder.chosen.name,
            )  # fmt: skip
        return ladder

    def _mixed(self, tester: TestedApplication, model: nn.Module, batches: list[Any]) -> Path:
        plan = MixedPrecision(self.budget, self.kind).pick(model, batches)
        path = tester.results / "mixed.yaml"
        plan.write(path)
        rows = [[name, bits, plan.losses[name][bits]] for name, bits in plan.bits.items()]
        logger.info("\n%s\n", tabulate(rows, ["layer", "bits", "noise"], floatfmt=".2e"))
        logger.info("written: %s, %.1f %% of the float network's %s", path, 100 * plan.cost, plan.kind)
        return path

    def _file(self, tester: TestedApplication) -> Path:
        folders = (SCHEDULES / tester.checkpoint["optform"], SCHEDULES)
        for path in (Path(self.settings), *(folder / self.settings for folder in folders)):
            if path.is_file():
                return path
        there = sorted({path.name for folder in folders for path in folder.glob("ptq*.y*ml")})
        raise UserError(
            f"--quantize={self.settings}: no such file here, in schedules/{tester.checkpoint['optform']}/ or in "
            f"schedules/, and neither {AUTO} nor {MIXED}; {did_you_mean(self.settings, [*there, AUTO, MIXED])}; "
            "nothing was done"
        )

    def _write(
        self, tester: TestedApplication, network: nn.Module, quantizer: PostTrainLinearQuantizer, result: dict[str, Any]
    ) -> None:
        folder = tester.results
        save_checkpoint(folder / "quantized.pt", quantized_checkpoint(tester.checkpoint, network, quantizer))
        quantizer.write_statistics(folder / "activation_stats.yaml")
        write_json(folder / "post_training.json", result)
        for note in quantizer.notes:
            logger.warning("%s", note)
        left = "; ".join(f"{name} ({why})" for name, why in quantizer.left_float.items())
        logger.info("stays float: %s", left or "nothing")
        logger.info("written: %s, quantized.pt, activation_stats.yaml", folder / "post_training.json")


def calibration_data(tester: TestedApplication, count: int) -> tuple[list[Any], Any]:
    """The inputs of `count` minibatches of the training data on the tester's device, and the validation data."""
    training, validation = tester.training_data()
    return [batch[0].to(tester.device) for batch in itertools.islice(training, count)], validation


def generated_data(tester: TestedApplication, model: nn.Module, count: int) -> list[Any]:
    """`count` minibatches of the training's size, generated from the network's BatchNorm statistics: no data are read.

    Raises:
        UserError: the network has no such statistics, or another input than one tensor.
    """
    example = tester.example_inputs()
    if len(example) != 1:
        raise UserError("inputs can be generated for a network that takes one tensor; calibrate with training data")
    size = max(2, int(tester.checkpoint["options"].get("batchSize", 2)))
    return list(generate_inputs(model, example[0], count, size, limits=tester.input_limits()))


def kind_of(generated: bool) -> str:
    """How samples to calibrate with are called."""
    return GENERATED if generated else "training"


def quantized_copy(tester: TestedApplication, model: nn.Module, bits: Bits, batches: int) -> nn.Module:
    """A float network quantized after training: weights per channel, activations by their extremes; model stays float.

    Args:
        tester: of its task, whose training data calibrates.
        model: float, in eval mode.
        bits: of weights and activations.
        batches: minibatches to calibrate with.
    """
    inputs, _ = calibration_data(tester, batches)
    settings: dict[str, Any] = {"bits_activations": bits, "bits_parameters": bits, "per_channel_wts": True}
    return PostTrainLinearQuantizer(**settings, example_inputs=inputs[0]).quantize(model, inputs)


def _budget(text: str) -> tuple[Kind, float]:
    """Kind and share of `size:0.15`."""
    kind, _, number = text.partition(":")
    try:
        share = float(number)
    except ValueError:
        share = 0.0
    for known in get_args(Kind):
        if kind == known and 0 < share <= 1:
            return known, share
    raise UserError(
        f"--bits-budget={text}: give size:X or bitops:X, X a share of the float network's, (0, 1]; nothing was started"
    )


def _say_samples(batches: list[Any], result: dict[str, Any]) -> None:
    size = " x ".join(str(each) for each in batches[0].shape[1:])
    logger.info(
        "calibrating with %d %s samples of %s in %d minibatches",
        result["samples"], result["calibration_data"], size, len(batches),
    )  # fmt: skip


def _quality_table(quality: dict[str, dict[str, float]], baseline: str) -> str:
    rows = [
        [words_of(metric).heading, each[baseline], each["float"], each["quantized"], each["quantized"] - each["float"]]
        for metric, each in quality.items()
    ]
    return tabulate(rows, ["quality", baseline, "float", "quantized", "change"], floatfmt=".4f")


def _ladder_table(ladder: Ladder, metric: str) -> str:
    rows = [[rung.name, rung.drop, rung.seconds, "chosen" if rung is ladder.chosen else ""] for rung in ladder.tried]
    return tabulate(rows, ["rung", f"drop of {words_of(metric).heading}", "seconds", ""], floatfmt=".4f")
