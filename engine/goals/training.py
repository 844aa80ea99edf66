"""The goals of a run at the end of its training, on the validation data: its best network exported and measured."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from apputils.runs.folders import Run
from compress.config.goals import goals_of
from compress.errors import UserError
from compress.export.exported_model import ExportedModel, describing
from compress.export.onnx.export_report import ExportSettings
from compress.export.onnx.qdq import is_quantized
from engine.application import TrainedApplication
from engine.commands.export import seen_inputs
from engine.goals.deployed import Deployed, judge_goals
from engine.goals.packing import export_packed
from engine.saved.dense_baseline import DenseQuality, dense_quality
from engine.saved.rebuild import rebuild
from options.applications import find_application

logger = logging.getLogger("run")
Metrics = Mapping[str, float]


def judge_trained(
    application: TrainedApplication,
    checkpoint: Mapping[str, Any],
    run: Run,
    known: Mapping[str, Metrics],
) -> dict[str, Any] | None:
    """Exports the best network into results/<run>/ and measures the goals of its schedule; None without goals.

    Args:
        application: its state's network is the best one.
        checkpoint: of that network.
        run: its folders.
        known: name -> metrics of the dense teachers on the validation data.
    """
    goals = goals_of(application.compression_scheduler.resolved)
    if not goals:
        return None
    try:
        return judge_goals(goals, _deployed(application, checkpoint, run, known))
    except UserError as e:
        logger.warning("the goals are not measured, as the network cannot be exported: %s", e)
        return {"verdict": "not measured", "rows": [], "file": None, "error": str(e)}


def higher_is_better(optform: str) -> Mapping[str, bool]:
    """Of each metric of an application; these are also the qualities that goals may be about."""
    found: Mapping[str, bool] = find_application(optform).load("tester").higher_is_better
    return found


def metrics_of(application: TrainedApplication, model: nn.Module) -> dict[str, float]:
    """Quality on the validation data, without the baselines'."""
    return {metric: values["model"] for metric, values in application.measure(model).items()}


def _deployed(
    application: TrainedApplication, checkpoint: Mapping[str, Any], run: Run, known: Mapping[str, Metrics]
) -> Deployed:
    model, threads = application.model, application.config.threads or 1
    with seen_inputs(model) as inputs:
        metrics_of(application, model)
    file = run.results / ("network_int8.onnx" if is_quantized(model) else "network.onnx")
    export_to(file, model, application, inputs, checkpoint)

    def of_another(content: dict[str, Any]) -> Metrics:
        return metrics_of(application, rebuild(application.build_model(), content).to(application.device))

    def dense() -> DenseQuality | str:
        return dense_quality(checkpoint, known, of_another)

    return Deployed(
        model=model,
        file=file,
        quality=metrics_of(application, ExportedModel(file, threads)),
        higher_is_better=higher_is_better(application.config.optform),
        dense_architecture=application.build_model(),
        dense_quality=dense,
        inputs=inputs[0],
        example_inputs=application.example_inputs(),
        threads=threads,
        measured_on=application.measured_on(),
    )


def export_to(
    file: Path, model: nn.Module, application: TrainedApplication, inputs: list[Any], checkpoint: Mapping[str, Any]
) -> None:
    """Writes a network's ONNX file, of integers if it is quantized, proved on real inputs.

    Raises:
        UserError: it cannot be exported.
    """
    dummies = tuple(each.cpu() for each in application.example_inputs())
    settings = ExportSettings(description=describing(checkpoint))
    export_packed(goals_of(checkpoint["schedule"] or {}), model, file, dummies, inputs, settings)
