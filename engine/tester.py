"""The evaluation that every application shares.

`BaseTester.run`: rebuild, measure, image, summary. An application's tester derives from it.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from apputils.platform_summaries import draw_model_to_file, macs_display, sparsity_display
from apputils.report.write import write_report
from apputils.runs.run_warnings import RunWarnings
from apputils.runs.summary import Cost, make_summary, summary_table
from apputils.runs.writable import check_results
from compress.analysis.activations.features import chosen_layers, dump_features
from compress.analysis.activations.statistics import ActivationStatistics, write_activations
from compress.analysis.macs.layers import macs_table
from compress.analysis.sparsity.totals import Sparsity
from compress.errors import UserError
from compress.export.exported_model import is_exported
from compress.io.files import write_json
from engine.application import TestedApplication
from engine.commands.diagnose import check_diagnosable, diagnose_run
from engine.commands.export import evaluate_exported, export_run, seen_inputs
from engine.commands.prune import PruneRequest
from engine.commands.quantize import QuantizeRequest
from engine.commands.runtimes import check_asked, device_results, in_runtimes
from engine.commands.sensitivity import SensitivityRequest
from engine.commands.thin import thin_subject
from engine.environment import set_up
from engine.goals.testing import judge_tested
from engine.saved.dense_baseline import dense_of_checkpoint, how_to_get_dense
from engine.saved.find_checkpoint import load_subject
from engine.saved.learned_nothing import learned_nothing
from engine.saved.run_record import RunRecord
from options.base_options import TestConfig

logger = logging.getLogger("run")
SecondBaseline = Callable[[], tuple[str, dict[str, float]]]  # name and metrics
WATCHED_CALLS = 8  # forward passes whose activations are gathered


class BaseTester(TestedApplication):
    """Evaluates one checkpoint.

    Args:
        config: the test options; `config.model` is the path of a checkpoint or of an exported file.
        testing_loader: what `test` measures on.
        checkpoint: the content of that file, if it has been read already; None reads it.

    Attributes:
        second: gives the quality of another run's network, a second baseline; None: there is none.
        warnings: of this evaluation.
    """

    def __init__(
        self, config: TestConfig, testing_loader: DataLoader[Any], checkpoint: dict[str, Any] | None = None
    ) -> None:
        super().__init__(config, testing_loader, checkpoint)
        self.second: SecondBaseline | None = None
        self.warnings = RunWarnings()

    def take(self, config: TestConfig | None, checkpoint: dict[str, Any] | None = None) -> None:
        """Goes on with other options than before, and the checkpoint that they name; None changes nothing."""
        if config is None or config == self.config:
            return
        same, self.config = config.model == self.config.model, config
        if checkpoint is not None or not same:
            self.checkpoint = load_subject(self.file) if checkpoint is None else checkpoint

    def dump_features(self, file: str) -> dict[str, Any]:
        """Writes intermediate outputs; returns the file's name and the number of samples."""
        opt, model, path = self.config, self.build_model(), Path(file)
        shapes = dump_features(model, chosen_layers(model, opt.layers), self.samples(), opt.num, path)
        for layer, found in shapes.items():
            size = found[0] if len(set(found)) == 1 else "different sizes"
            logger.info("%s: %d samples of %s", layer, len(found), size)
        logger.info("written: %s, %.1f MB", path, path.stat().st_size / 1e6)
        return {"features": str(path), "samples": len(next(iter(shapes.values())))}

    def run(self, opt: TestConfig | None = None) -> dict[str, Any]:
        """Measures, writes images and `test_summary.json`, shows the table; returns the summary.

        With `--dump-features` it writes intermediate outputs instead. The network is exported too (`--no-export` leaves
        that out); an exported file is only measured.

        Args:
            opt: the options, if they are not those that the tester was made with.
        """
        self.take(opt)
        with self.warnings:
            return self._run()

    def _run(self) -> dict[str, Any]:
        set_up(0, self.config.threads)
        if self.config.thin:
            self.take(*thin_subject(self))
        opt = self.config
        sensitivity, change = SensitivityRequest.of(opt), QuantizeRequest.of(opt) or PruneRequest.of(opt)
        if opt.dump_features is not None:
            return self.dump_features(opt.dump_features)
        check_results(self.results)
        if is_exported(self.file):
            if change is not None:
                what = "--prune" if opt.prune is not None else "--quantize"
                raise UserError(f"{what} needs a checkpoint, and {opt.model} is an exported file; nothing was done")
            return evaluate_exported(self)
        if change is not None:
            return change.run(self)
        check_asked(self)
        check_diagnosable(self)
        started = time.perf_counter()
        second = [self.second()] if self.second else []  # first: it may be refused
        dense = second or [(name, self.test(each)) for name, each in self.dense_networks().items()]
        trivial = self.baseline()
        baselines = dict([trivial, *dense])
        model = self.build_model()
        logger.info("testing %s (epoch %d) on %s", opt.model, self.checkpoint["epoch"], self.device)
        activations = ActivationStatistics(model, WATCHED_CALLS, enabled=opt.report)
        with seen_inputs(model) as inputs, activations:
            own = self.test(model)
        images = self.results / "images"
        for old in images.glob("*.png"):  # of an evaluation on other data
            old.unlink(missing_ok=True)  # another process may share the analysis, and this folder
        count = self.write_images(model, images)
        summary = make_summary(
            run=self.folders.name,
            optform=self.checkpoint["optform"],
            schedule=self.checkpoint["options"]["compress"],
            epochs=self.checkpoint["epoch"] + 1,
            seconds=time.perf_counter() - started,
            quality={metric: {**_each(baselines, metric), "model": value} for metric, value in own.items()},
            sparsity=Sparsity.of(model, self.checkpoint["scheduled_weights"]),
            cost=Cost.of(model, self.example_inputs()),
            checkpoint=self.file,
            measured_on=self.data_facts(),
            dense=dense[0][0] if dense else None,
        )
        summary["details"] = self.details(model)
        summary["folder"] = self.results.relative_to(self.folders.results).as_posix()
        summary["commands"] = opt.commands(self.checkpoint)
        record = RunRecord.of(self.folders, self.file, self.checkpoint)
        self._warn_if_no_better(own, trivial, record)
        self._add_record(summary, record)
        path = self.results / "test_summary.json"
        write_json(path, summary)
        logger.info("%s", summary_table(summary))
        if not dense and self.is_compressed(summary):
            logger.info("%s", how_to_get_dense(self.folders.name, self.checkpoint))
        logger.info("written: %s%s", path, f", {count} images in {images}/" if count else "")
        # each once, beside the export or behind it
        analyse = cache(partial(sensitivity.run, self, model))
        describe = cache(partial(self.describe, model, activations))
        exported = self._export(model, inputs, own, [analyse] * sensitivity.is_short + [describe] * opt.report)
        if goals := judge_tested(self, model, inputs, exported, dict(dense), device_results(self)):
            summary["goals"] = goals
        analyse()
        self._add_record(summary, record)  # again: exporting and analysing may have warned
        write_json(path, summary)
        if opt.report:
            describe()
            self.report(model, {**self.checkpoint, "history": record.history}, summary)
        return summary

    def _export(
        self,
        model: nn.Module,
        inputs: list[tuple[Tensor, ...]],
        quality: dict[str, float],
        meanwhile: Sequence[Callable[[], object]],
    ) -> dict[str, Any] | None:
        """Files, and what runtimes make of them, as far as the options ask for; export.json's content."""
        exported = export_run(self, model, inputs, quality, meanwhile) if self.config.export else None
        in_runtimes(self, {"network": model}, inputs)
        if self.config.diagnose:
            diagnose_run(self, model, inputs)
        return exported

    def dense_networks(self) -> dict[str, nn.Module]:
        """The run's teachers that answer its task, on the device, by what reports call them."""
        found = dense_of_checkpoint(self.folders, self.checkpoint)
        return {name: network.to(self.device) for name, network in found.items()}

    def is_compressed(self, summary: Mapping[str, Any]) -> bool:
        """Whether the network was thinned, quantized or masked by its schedule."""
        scheduler = self.checkpoint["scheduler"]
        return bool(scheduler["recipes"] or scheduler.get("structures") or summary["sparsity"]["scheduled"])

    def _warn_if_no_better(
        self, own: dict[str, float], trivial: tuple[str, dict[str, float]], record: RunRecord
    ) -> None:
        metric = self.application.load("trainer").quality
        name, values = trivial
        if metric in own and metric in values:
            higher = self.higher_is_better.get(metric, True)
            if text := learned_nothing(metric, own[metric], (name, values[metric]), higher, record.history):
                logger.warning("%s", text)

    def _add_record(self, summary: dict[str, Any], record: RunRecord) -> None:
        """Puts into a summary what the run was warned of, and this evaluation so far."""
        heard = RunWarnings()
        ended = [{"epoch": None, "text": record.cut_short, "count": 1}] if record.cut_short else []
        for entry in [*record.warnings, *ended, *self.warnings.entries]:
            heard.add(entry)
        summary["warnings"] = heard.entries
        summary["trained_epochs"], summary["planned_epochs"] = record.trained_epochs, record.planned_epochs

    def describe(self, model: nn.Module, activations: ActivationStatistics) -> None:
        """What the network is made of, as tables and images; nothing of it is timed."""
        sparsity_display(model, self.results / "sparsity.xlsx")
        draw_model_to_file(model, self.results / "arch.png", self.example_inputs())
        write_activations(activations.report(), self.results / "activations.xlsx")

    def report(self, model: nn.Module, checkpoint: dict[str, Any], summary: Mapping[str, Any]) -> None:
        """What the network costs on this machine, and the page that shows it all."""
        folder, example = self.results, self.example_inputs()
        macs_display(model, folder / "macs.xlsx", example)
        dense = self.new_network(self.checkpoint["network"]["arguments"]).to(self.device)
        write_report(folder, checkpoint, summary, macs_table(dense, example))


def _each(baselines: Mapping[str, Mapping[str, float]], metric: str) -> dict[str, float]:
    return {name: found[metric] for name, found in baselines.items()}
