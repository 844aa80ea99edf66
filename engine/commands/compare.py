"""Networks side by side: `test.py --compare RUN_OR_CHECKPOINT ...` and `--benchmark`.

Which networks are meant, whether they may be compared, their quality and files. Applications are given by the entry
point, so that nothing here knows any.
"""

import dataclasses
import logging
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from apputils.compare.candidate import Candidate
from apputils.compare.write import compared, table_text, write_comparison
from apputils.report.records import read_json
from apputils.report.source import devices_of
from apputils.runs.folders import Run
from apputils.runs.run_warnings import place_of
from apputils.runs.writable import check_results
from compress.analysis.measured_words import measured_words
from compress.errors import UserError
from compress.export.onnx.qdq import is_quantized
from compress.export.runtimes.measure import chosen_runtimes
from compress.export.runtimes.text import table_text as runtimes_text
from compress.export.runtimes.text import warnings_of as runtimes_warnings
from compress.export.timing import BENCHMARK, Timing
from compress.goals.judge import MET
from compress.io.progress import Bar
from compress.quantization.decision import Bits
from engine.application import TestedApplication
from engine.commands.export import export_checkpoint, seen_inputs
from engine.commands.quantize import quantized_copy
from engine.commands.runtimes import cropping, measured, single_inputs
from engine.environment import choose_device, set_up
from engine.saved.compared_runs import ALL, Named, find_subjects, subject_of_run
from engine.saved.run_record import RunRecord
from options.applications import Application
from options.base_options import TestConfig

logger = logging.getLogger("run")


def compare(opt: TestConfig, application_of: Callable[[str], Application]) -> dict[str, Any]:
    """Measures the networks that the options name, and writes results/compare-.../; returns what compare.json holds.

    Args:
        opt: the test options.
        application_of: name -> application with `load(part)`.

    Raises:
        UserError: the networks cannot be compared, or one cannot be built.
    """
    choose_device(opt.device)
    timing = dataclasses.replace(BENCHMARK if opt.benchmark else Timing(), threads=opt.threads or 1)
    set_up(0, timing.threads)
    if opt.runtimes is not None:
        chosen_runtimes(opt.runtimes)  # a wrong name is refused before anything is measured
    subjects, notes = find_subjects(opt)
    check_results(Path("results"))
    lenient = opt.compare == (ALL,)
    subjects, testers, lost = _testers(subjects, opt, application_of, lenient)
    subjects, testers, more = _on_the_same_data(subjects, testers, lenient)
    further = {
        subject.name: _further(subject, tester, opt, application_of)
        for subject, tester in zip(subjects, testers, strict=True)
    }
    with tempfile.TemporaryDirectory() as folder:
        pairs = zip(subjects, testers, strict=True)
        candidates = [
            candidate
            for place, (subject, tester) in enumerate(Bar(pairs, len(subjects), "networks", "network"))
            for candidate in _candidates(
                subject, tester, opt, Path(folder) / f"{place}.onnx", notes, further[subject.name]
            )
        ]
        logger.info("timing %d networks in turns, %d rounds", len(candidates), timing.rounds)
        about = _about(subjects[0], testers[0], [*notes, *lost, *more])
        about["warnings"] = [row for subject in subjects for row in _warnings(subject)]
        content = compared(candidates, testers[0].higher_is_better, timing, about)
        content["runtimes"] = _in_runtimes(candidates, subjects, testers, opt, timing)
        content["devices"] = [each for pair in zip(subjects, testers, strict=True) for each in _on_devices(*pair)]
    place = _new_folder(subjects[0].optform)
    write_comparison(place, content)
    logger.info("\n%s\n", table_text(content))
    if content["runtimes"]:
        logger.info("%s\n", runtimes_text(content["runtimes"]))
        for text in runtimes_warnings(content["runtimes"]):
            logger.warning("%s", text)
    for row in content["warnings"]:
        logger.warning("%s: %s", row["name"], row["text"])
    for note in content["notes"]:
        logger.warning("%s", note)
    logger.info("written: %s/compare.html (and .xlsx, .json)", place)
    return content


def _tester(subject: Named, opt: TestConfig, application: Application) -> TestedApplication:
    """The application's tester of a checkpoint, with the options that were given."""
    own = application.load("test_options")().parse([])
    shared = {field.name for field in dataclasses.fields(opt)} & {field.name for field in dataclasses.fields(own)}
    given = {name: getattr(opt, name) for name in shared}
    given |= {"model": str(subject.path), "optform": subject.optform, "run": None}
    options = dataclasses.replace(own, **given)
    tester: TestedApplication = application.load("tester")(
        options, application.load("testing_loader")(options, subject.checkpoint), subject.checkpoint
    )
    return tester


def _testers(
    subjects: Sequence[Named], opt: TestConfig, application_of: Callable[[str], Application], lenient: bool
) -> tuple[list[Named], list[TestedApplication], list[str]]:
    """Those that can be measured, and with `all` what cannot, in words.

    Raises:
        UserError: the data of one that was named cannot be had, or of all.
    """
    chosen: list[Named] = []
    testers: list[TestedApplication] = []
    notes: list[str] = []
    for each in subjects:
        try:
            testers.append(_tester(each, opt, application_of(each.optform)))
            chosen.append(each)
        except UserError as e:
            if not lenient:
                raise
            notes.append(f"{each.name} is left out, as it cannot be measured: {e}")
    if not chosen:
        raise UserError("\n  ".join(["no run can be measured:", *notes]))
    return chosen, testers, notes


def _on_the_same_data(
    subjects: Sequence[Named], testers: Sequence[TestedApplication], lenient: bool
) -> tuple[list[Named], list[TestedApplication], list[str]]:
    """Those measured on the data of the first (with `all`: of the newest run), and what was left out, in words.

    Raises:
        UserError: some were named that are not, and not by `all`.
    """
    wanted = testers[-1 if lenient else 0].measured_on()
    same = [tester.measured_on() == wanted for tester in testers]
    others = [(s.name, t.measured_on()) for s, t, fits in zip(subjects, testers, same, strict=True) if not fits]
    told = f"measured on {words_of_data(wanted)}; " + "; ".join(f"{name} on {words_of_data(it)}" for name, it in others)
    if others and not lenient:
        raise UserError(
            f"quality on different data is not compared: {subjects[0].name} is {told}; nothing was measured"
        )
    notes = [f"left out, as quality on different data is not compared: {told}"] if others else []
    chosen = [(s, t) for s, t, fits in zip(subjects, testers, same, strict=True) if fits]
    return [s for s, _ in chosen], [t for _, t in chosen], notes


def _further(
    subject: Named, first: TestedApplication, opt: TestConfig, application_of: Callable[[str], Application]
) -> dict[int, TestedApplication]:
    """Testers of a group's other runs, which measure on the same data as that of the first one.

    Raises:
        UserError: one does not.
    """
    others = [(seed, subject_of_run(run.name)) for seed, run in list(subject.seeds.items())[1:]]
    testers = [_tester(each, opt, application_of(subject.optform)) for _, each in others]
    _on_the_same_data([subject, *(each for _, each in others)], [first, *testers], False)
    return {seed: tester for (seed, _), tester in zip(others, testers, strict=True)}


def _candidates(
    subject: Named,
    tester: TestedApplication,
    opt: TestConfig,
    file: Path,
    notes: list[str],
    further: Mapping[int, TestedApplication],
) -> list[Candidate]:
    """A checkpoint's network; with `--bits` also what quantizing it after training gives, if it is float."""
    model = tester.build_model()
    found = [_candidate(subject.name, model, subject, tester, opt, file, notes)]
    if subject.seeds:
        found = [_with_seeds(found[0], subject, further)]
        notes.append(
            f"{subject.name} is a group: quality is the mean of its seeds, costs are those of {tester.folders.name}"
        )
    if opt.bits is None or subject.seeds:
        return found
    if is_quantized(model):
        notes.append(f"{subject.name} is quantized already; --bits={opt.bits} leaves it as it is")
        return found
    small = quantized_copy(tester, model, cast(Bits, opt.bits), opt.calibration)
    name = f"{subject.name}, {opt.bits} bits"
    return [*found, _candidate(name, small, subject, tester, opt, file.with_suffix(".int.onnx"), notes)]


def _candidate(
    name: str,
    model: nn.Module,
    subject: Named,
    tester: TestedApplication,
    opt: TestConfig,
    file: Path,
    notes: list[str],
) -> Candidate:
    """A network, its quality, its ONNX file, and inputs to time it with."""
    with seen_inputs(model) as seen:
        scores = {metric: np.array([each]) for metric, each in tester.image_scores(model).items()}
        quality = {} if scores else tester.test(model)
    generator = torch.Generator().manual_seed(0)
    shapes = [(opt.batch * each.shape[0], *each.shape[1:]) for each in tester.example_inputs()]
    inputs = tuple(torch.rand(shape, generator=generator) for shape in shapes)
    quantized = is_quantized(model)
    try:
        single = tuple(each.cpu() for each in tester.example_inputs())
        export_checkpoint(tester, model, file, "qdq" if quantized else "float", single, seen[:1])
    except UserError as e:
        notes.append(f"{name} is not exported, so it has no file and no time in onnxruntime: {e}")
    facts = {"architecture": _architecture(subject.checkpoint, quantized), "schedule": _schedule(subject.checkpoint)}
    facts["goals"] = _goals(subject) if name == subject.name else ""
    on_device = tuple(each.to(tester.device) for each in inputs)
    quality |= {metric: float(each.mean()) for metric, each in scores.items()}
    exported = file if file.is_file() else None
    return Candidate(name, model, on_device, quality, exported, facts, scores, seen=tuple(seen))


def _with_seeds(candidate: Candidate, subject: Named, others: Mapping[int, TestedApplication]) -> Candidate:
    """A group's candidate: the first run's costs, and the quality of all its runs."""
    found = [{metric: each[0] for metric, each in candidate.scores.items()}]
    found += [other.image_scores(other.build_model()) for other in others.values()]
    scores = {metric: np.array([each[metric] for each in found]) for metric in candidate.scores}
    quality = {metric: float(each.mean()) for metric, each in scores.items()}
    return dataclasses.replace(candidate, quality=quality, scores=scores, seeds=tuple(subject.seeds))


def _in_runtimes(
    candidates: Sequence[Candidate],
    subjects: Sequence[Named],
    testers: Sequence[TestedApplication],
    opt: TestConfig,
    timing: Timing,
) -> dict[str, Any] | None:
    """The same networks in the runtimes of `--runtimes`; None without it."""
    if opt.runtimes is None:
        return None
    own = {
        each.name: tester
        for subject, tester in zip(subjects, testers, strict=True)
        for each in candidates
        if each.name in (subject.name, f"{subject.name}, {opt.bits} bits")
    }
    qualities = {name: tester.test for name, tester in own.items()}
    crops = {name: cropping(tester) for name, tester in own.items()}
    batch = [tuple(torch.cat([x] * opt.batch) for x in each) for each in single_inputs(candidates[0].seen)]
    inputs = batch or [tuple(x.cpu() for x in candidates[0].inputs)]
    models = {each.name: each.model for each in candidates}
    return measured(models, inputs, opt.runtimes, cast(Any, qualities), timing, crops).to_dict()


def _on_devices(subject: Named, tester: TestedApplication) -> list[dict[str, Any]]:
    """What devices have measured of a run's network and of its dense one, under the run's name."""
    found = devices_of(tester.results, subject.path)
    return [
        {**each, "rows": [{**row, "network": f"{subject.name}: {row['network']}"} for row in each["rows"]]}
        for each in found
    ]


def _warnings(subject: Named) -> list[dict[str, str]]:
    """What a compared run was warned of, and that it was ended early."""
    record = RunRecord.of(Run(subject.checkpoint["run"]), subject.path, subject.checkpoint)
    texts = [f"{place_of(entry)}{entry['text']}" for entry in record.warnings]
    return [
        {"name": subject.name, "text": text} for text in [*texts, *([record.cut_short] if record.cut_short else [])]
    ]


def _about(subject: Named, tester: TestedApplication, notes: list[str]) -> dict[str, Any]:
    baseline, trivial = tester.baseline()
    return {
        "optform": subject.optform,
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "measured_on": f"{measured_words(tester.data_facts())} ({words_of_data(tester.measured_on(), 80)})",
        "baseline": baseline,
        "baseline_quality": trivial,
        "command": shlex.join(["python", "test.py", *sys.argv[1:]]),
        "notes": notes,
    }


def _architecture(checkpoint: dict[str, Any], quantized: bool) -> str:
    """The network's class or name, and whether it was fused, thinned or quantized."""
    arguments, scheduler = checkpoint["network"]["arguments"], checkpoint["scheduler"]
    name = str(arguments.get("arch", checkpoint["network"]["class"]))
    fused = [bool(recipe.get("fused")) for recipe in scheduler["recipes"]]
    done = ["fused"] * any(fused) + ["thinned"] * (not all(fused)) + ["quantized"] * quantized
    return ", ".join([name, *done])


def _schedule(checkpoint: dict[str, Any]) -> str:
    given = checkpoint["options"].get("compress")
    return Path(given).stem if given else "none"


def _goals(subject: Named) -> str:
    """What the run's latest evaluation found of its goals: `met`, `missed: psnr drop at most 0.1`; '' without goals."""
    folder = Run(subject.checkpoint["run"]).results
    found = [read_json(folder / name) for name in ("test_summary.json", "summary.json")]
    record = next((each["goals"] for each in found if isinstance(each, dict) and each.get("goals")), None)
    if record is None:
        return ""
    kinds = dict.fromkeys(row["verdict"] for row in record["rows"] if row["verdict"] != MET)
    of = {kind: ", ".join(row["goal"] for row in record["rows"] if row["verdict"] == kind) for kind in kinds}
    return "; ".join(f"{kind}: {names}" for kind, names in of.items()) or record["verdict"]


def words_of_data(facts: Mapping[str, Any], most: int | None = None) -> str:
    """`images 357 of ..., classes cat, dog, and 998 more`; `most` letters of each value, None for all."""
    return ", ".join(f"{name} {_bounded(str(value), most)}" for name, value in facts.items()) or "the test data"


def _bounded(text: str, most: int | None) -> str:
    """The beginning of a long list, such as that of a thousand classes, and how many more there are."""
    if most is None or len(text) <= most:
        return text
    kept = text[:most].rpartition(", ")[0] or text[:most]
    return f"{kept}, and {text.count(', ') - kept.count(', ')} more"


def _new_folder(optform: str) -> Path:
    """results/compare-APPLICATION-DATE-TIME, made, which no other comparison has."""
    stem = Path("results") / f"compare-{optform}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in range(1000):
        folder = stem.with_name(f"{stem.name}-{number}") if number else stem
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise UserError(f"{stem} and a thousand more exist already")
