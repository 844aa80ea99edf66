"""The end of a run: its best network measured, the summary written and shown.

`summarize`.
"""

import logging
from collections.abc import Mapping
from typing import Any

from apputils.runs.folders import Run
from apputils.runs.summary import Cost, make_summary, summary_table, whereabouts
from compress.analysis.sparsity.totals import Sparsity
from compress.io.files import write_json
from engine.application import TrainedApplication
from engine.goals.training import judge_trained
from engine.progress import Progress
from engine.saved.after_training import quantized_at_the_end
from engine.saved.dense_baseline import beside_dense, dense_teachers
from engine.saved.learned_nothing import FEWEST_EPOCHS, learned_nothing, worse_teachers
from engine.saved.rebuild import rebuild
from options.own_network import to_type_again

logger = logging.getLogger("run")


def summarize(
    application: TrainedApplication, progress: Progress, run: Run, warnings: list[dict[str, Any]]
) -> dict[str, Any]:
    """Measures the best network on the validation data, writes the summary and shows it.

    The application's network is the best one afterwards.

    Args:
        application: measures; its state names the teachers.
        progress: of the run, finished.
        run: its folders.
        warnings: entries of `RunWarnings`.

    Returns:
        what summary.json holds.
    """
    state, config = application.state, application.config
    best = quantized_at_the_end(application, run)
    state.model = rebuild(application.build_model(), best).to(application.device)
    teachers = dense_teachers(state.scheduler.teachers, state.teachers)
    dense = {name: application.measure(network) for name, network in teachers.items()}
    quality = application.measure(state.model)
    if progress.history and (text := _no_better(application, progress, quality)):
        logger.warning("%s", text)
    if len(progress.history) >= FEWEST_EPOCHS:
        for text in _of_teachers(application, quality, dense):
            logger.warning("%s", text)
    summary = make_summary(
        run=run.name,
        optform=config.optform,
        schedule=config.compress,
        epochs=progress.epochs,
        seconds=progress.seconds,
        quality=beside_dense(quality, dense),
        sparsity=Sparsity.of(state.model, state.scheduler.scheduled_weights),
        cost=Cost.of(state.model, application.example_inputs()),
        checkpoint=run.best,
        measured_on=application.measured_on(),
        dense=next(iter(dense), None),
        warnings=warnings,
    )
    write_json(run.results / "summary.json", summary)
    logger.info("%s", summary_table(summary))
    known = {name: {metric: each["model"] for metric, each in found.items()} for name, found in dense.items()}
    if goals := judge_trained(application, best, run, known):
        summary["goals"] = goals
        write_json(run.results / "summary.json", summary)
    progress.sizes.tell(run, application.quality)
    logger.info("%s", whereabouts(run, to_type_again(config)))
    return summary


def _of_teachers(
    application: TrainedApplication,
    quality: Mapping[str, Mapping[str, float]],
    dense: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> list[str]:
    metric = application.quality
    if metric not in quality:
        return []
    known = {name: found[metric]["model"] for name, found in dense.items()}
    return worse_teachers(metric, quality[metric]["model"], known, application.higher_is_better)


def _no_better(application: TrainedApplication, progress: Progress, quality: Mapping[str, Mapping[str, float]]) -> str:
    metric = application.quality
    baselines = [(name, value) for name, value in quality.get(metric, {}).items() if name != "model"]
    if not baselines:
        return ""
    value = quality[metric]["model"]
    return learned_nothing(metric, value, baselines[0], application.higher_is_better, progress.history)
