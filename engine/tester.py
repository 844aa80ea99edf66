"""The evaluation that every application shares.

`BaseTester.run`: rebuild, measure, picture, summary. An application's tester derives from it.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.data import DataLoader

from apputils.checkpoints.schema import built
from apputils.platform_summaries import draw_model_to_file, macs_display, sparsity_display
from apputils.report.write import write_report
from apputils.runs.folders import Run
from apputils.runs.run_warnings import RunWarnings
from apputils.runs.summary import Cost, make_summary, summary_table
from apputils.runs.writable import check_results
from compress.analysis.activations.features import Samples, chosen_layers, dump_features
from compress.analysis.activations.statistics import ActivationReport, ActivationStatistics, write_activations
from compress.analysis.macs.layers import macs_table
from compress.analysis.sensitivity.evaluation import Evaluation
from compress.analysis.sparsity.totals import Sparsity
from compress.errors import UserError
from compress.export.exported_model import ExportedModel, is_exported
from compress.io.files import write_json
from data.measured import facts_of
from engine.commands.export import evaluate_exported, export_run, seen_inputs
from engine.commands.find_checkpoint import load_subject
from engine.commands.quantize import QuantizeRequest
from engine.commands.sensitivity import SensitivityRequest
from engine.commands.thin import thin_subject
from engine.environment import choose_device, set_up
from engine.saved.dense_baseline import dense_of_checkpoint, how_to_get_dense
from engine.saved.rebuild import rebuild
from engine.saved.run_record import RunRecord

logger = logging.getLogger("run")
SecondBaseline = Callable[[], tuple[str, dict[str, float]]]  # name and metrics
WATCHED_CALLS = 8  # forward passes whose activations are gathered


class BaseTester:
    """Evaluates one checkpoint.

    Args:
        config: the test options; `config.model` is the path of a checkpoint or of an exported file.
        testing_loader: what `test` measures on.

    Attributes:
        higher_is_better: for each metric whether more of it is better.
        second: tells the quality of another run's network, a second baseline; None: there is none.
        application: with `load(part)`, for what needs the run's trainer; None: it is not known.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {}

    def __init__(self, config: Any, testing_loader: DataLoader[Any]) -> None:
        self.config = config
        self.testing_loader = testing_loader
        self.device = choose_device(config.device)
        self.checkpoint = load_subject(Path(config.model))
        self.folders = Run(self.checkpoint["run"])
        self.second: SecondBaseline | None = None
        self.warnings = RunWarnings()
        self.application: Any = None

    @property
    def results(self) -> Path:
        """Where everything is written: the run's folder, or for another checkpoint than its best one a folder there."""
        path = Path(self.config.model)
        of_the_run = is_exported(path) or path.resolve() == self.folders.best.resolve()
        return self.folders.results if of_the_run else self.folders.results / path.stem

    # What an application gives ------------------------------------------------------------------------------------

    def new_network(self, arguments: dict[str, Any]) -> nn.Module:
        """The network of these constructor arguments."""
        raise NotImplementedError

    def test(self, model: nn.Module) -> dict[str, float]:
        """Metrics of a network on the test data, by name; writes nothing."""
        raise NotImplementedError

    def baseline(self) -> tuple[str, dict[str, float]]:
        """The trivial method's name and its metrics on the test data."""
        raise NotImplementedError

    def measured_on(self) -> dict[str, Any]:
        """What quality is measured on, as plain data; networks are compared only where it is equal."""
        return {}

    def data_facts(self) -> dict[str, Any]:
        """The evaluated data, their part and the number of images, as `data.measured` has them."""
        return facts_of(self.testing_loader)

    def evaluation(self) -> Evaluation | None:
        """The evaluation taken apart, which the sensitivity analysis runs faster than `test`; None: there is none."""
        return None

    def details(self, model: nn.Module) -> dict[str, Any]:
        """More that the summary keeps, under its key `details`, as plain data."""
        return {}

    def write_pictures(self, model: nn.Module, folder: Path) -> int:
        """Writes what can be looked at; returns the number of pictures."""
        return 0

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs that the network can be traced with; MACs are counted for their size."""
        raise NotImplementedError

    def samples(self) -> Samples:
        """The network's inputs and their labels, None where there are none, in minibatches; by default as loaded."""
        return self.testing_loader

    def training_data(self) -> tuple[Iterable[Any], Any]:
        """Minibatches that the run was trained with, the network's input first in each, and the validation loader."""
        raise UserError(f"{type(self).__name__} gives no training data, so nothing can be calibrated")

    # The evaluation -----------------------------------------------------------------------------------------------

    def build_model(self) -> nn.Module:
        """The checkpoint's network, rebuilt from data, with the weights that count for quality; or the exported file.

        Raises:
            UserError: the weights do not fit, or the file cannot be run.
        """
        if is_exported(self.config.model):
            return ExportedModel(self.config.model, self.config.threads)
        model = rebuild(built(self.new_network, self.checkpoint), self.checkpoint)
        return model.to(self.device).eval()

    def become(self, opt: Any) -> Any:
        """Goes on with the checkpoint that the options name; returns the options."""
        self.config, self.checkpoint = opt, load_subject(Path(opt.model))
        return opt

    def dump_features(self, opt: Any) -> dict[str, Any]:
        """Writes intermediate outputs; returns the file's name and the number of samples."""
        model, path = self.build_model(), Path(opt.dump_features)
        shapes = dump_features(model, chosen_layers(model, opt.layers), self.samples(), opt.num, path)
        for layer, found in shapes.items():
            size = found[0] if len(set(found)) == 1 else "different sizes"
            logger.info("%s: %d samples of %s", layer, len(found), size)
        logger.info("written: %s, %.1f MB", path, path.stat().st_size / 1e6)
        return {"features": str(path), "samples": len(next(iter(shapes.values())))}

    def run(self, opt: Any) -> dict[str, Any]:
        """Measures, writes pictures and `test_summary.json`, shows the table; returns the summary.

        With `--dump-features` it writes intermediate outputs instead. The network is exported too (`--no-export` leaves
        that out); an exported file is only measured.
        """
        with self.warnings:
            return self._run(opt)

    def _run(self, opt: Any) -> dict[str, Any]:
        set_up(0, opt.threads)
        if opt.thin:
            opt = self.become(thin_subject(self, opt))
        sensitivity, quantization = SensitivityRequest.of(opt), QuantizeRequest.of(opt)
        if opt.dump_features is not None:
            return self.dump_features(opt)
        check_results(self.results)
        if is_exported(opt.model):
            if quantization is not None:
                raise UserError(f"--quantize needs a checkpoint, and {opt.model} is an exported file; nothing was done")
            return evaluate_exported(self, opt)
        if quantization is not None:
            return quantization.run(self, opt)
        started = time.perf_counter()
        second = [self.second()] if self.second else []  # first: it may be refused
        dense = second or [(name, self.test(each)) for name, each in self.dense_networks().items()]
        baselines = dict([self.baseline(), *dense])
        model = self.build_model()
        logger.info("testing %s (epoch %d) on %s", opt.model, self.checkpoint["epoch"], self.device)
        activations = ActivationStatistics(model, WATCHED_CALLS, enabled=opt.report)
        with seen_inputs(model) as inputs, activations:
            own = self.test(model)
        pictures = self.results / "images"
        for old in pictures.glob("*.png"):  # of an evaluation on other data
            old.unlink()
        count = self.write_pictures(model, pictures)
        summary = make_summary(
            run=self.folders.name,
            optform=self.checkpoint["optform"],
            schedule=self.checkpoint["options"]["compress"],
            epochs=self.checkpoint["epoch"] + 1,
            seconds=time.perf_counter() - started,
            quality={metric: {**_each(baselines, metric), "model": value} for metric, value in own.items()},
            sparsity=Sparsity.of(model, self.checkpoint["scheduled_weights"]),
            cost=Cost.of(model, self.example_inputs()),
            checkpoint=Path(opt.model),
            measured_on=self.data_facts(),
            dense=dense[0][0] if dense else None,
        )
        summary["details"] = self.details(model)
        summary["commands"] = opt.commands(self.checkpoint)
        record = RunRecord.of(self.folders, Path(opt.model), self.checkpoint)
        self._add_record(summary, record)
        path = self.results / "test_summary.json"
        write_json(path, summary)
        logger.info("%s", summary_table(summary))
        if not dense and self.is_compressed(summary):
            logger.info("%s", how_to_get_dense(self.folders.name, self.checkpoint))
        logger.info("written: %s%s", path, f", {count} images in {pictures}/" if count else "")
        if opt.export:
            export_run(self, model, inputs, own, opt)
        sensitivity.run(self, model)
        self._add_record(summary, record)  # again: exporting and analysing may have warned
        write_json(path, summary)
        if opt.report:
            self.report(model, summary, activations.report())
        return summary

    def dense_networks(self) -> dict[str, nn.Module]:
        """The run's teachers that answer its task, on the device, by what reports call them."""
        found = dense_of_checkpoint(self.folders, self.checkpoint)
        return {name: network.to(self.device) for name, network in found.items()}

    def is_compressed(self, summary: Mapping[str, Any]) -> bool:
        """Whether the network was thinned, quantized or masked by its schedule."""
        scheduler = self.checkpoint["scheduler"]
        return bool(scheduler["recipes"] or scheduler.get("structures") or summary["sparsity"]["scheduled"])

    def _add_record(self, summary: dict[str, Any], record: RunRecord) -> None:
        """Puts into a summary what the run was warned of, and this evaluation so far."""
        heard = RunWarnings()
        ended = [{"epoch": None, "text": record.cut_short, "count": 1}] if record.cut_short else []
        for entry in [*record.warnings, *ended, *self.warnings.entries]:
            heard.add(entry)
        summary["warnings"] = heard.entries
        summary["trained_epochs"], summary["planned_epochs"] = record.trained_epochs, record.planned_epochs

    def report(self, model: nn.Module, summary: Mapping[str, Any], activations: ActivationReport) -> None:
        """What the network is made of and what it costs, as tables and pictures, and the page that shows it all."""
        folder, example = self.results, self.example_inputs()
        sparsity_display(model, folder / "sparsity.xlsx")
        macs_display(model, folder / "macs.xlsx", example)
        draw_model_to_file(model, folder / "arch.png", example)
        write_activations(activations, folder / "activations.xlsx")
        dense = self.new_network(self.checkpoint["network"]["arguments"]).to(self.device)
        record = RunRecord.of(self.folders, Path(self.config.model), self.checkpoint)
        checkpoint = {**self.checkpoint, "history": record.history}
        write_report(folder, checkpoint, summary, macs_table(dense, example))


def _each(baselines: Mapping[str, Mapping[str, float]], metric: str) -> dict[str, float]:
    return {name: found[metric] for name, found in baselines.items()}
