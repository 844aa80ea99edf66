"""Options that cannot go together, or of which one means nothing without another: refused before anything starts.

`Rule`, `check`, and the rules that every application's options share. Imports no torch: a refusal must be quick.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from apputils.runs.folders import check_new_name, find_run, run_to_resume
from apputils.runs.seed_groups import group_of, seeds_of
from compress.errors import UserError, did_you_mean
from options.command import MODES
from options.configs import TestConfig, TrainConfig
from options.option import dashed
from options.own_network import is_own
from options.schedules import schedule_families

C = TypeVar("C", bound=TrainConfig | TestConfig)
Judged = TypeVar("Judged", bound=TrainConfig | TestConfig, contravariant=True)  # a rule of all holds for each kind
Trained = TypeVar("Trained", bound=TrainConfig)
Tested = TypeVar("Tested", bound=TestConfig)

PLACES = ("FOLDER", "FILE", "PLACE")  # how `--help` calls the value of an option that names what must be there
EXPORTED = (".onnx", ".pt2")
YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class Rule(Generic[Judged]):
    """What an option asks of the others, if it was given.

    Attributes:
        options: the names it is about; a rule of several asks the same of each.
        holds: of the whole options object; False refuses.
        words: what follows `--OPTION` in the message.
    """

    options: tuple[str, ...]
    holds: Callable[[Judged], object]
    words: str


def is_said(value: object) -> bool:
    """Whether an option's value says something: 0 does, a switch that is off does not."""
    return value is not None and value is not False


def check(config: C, rules: Iterable[Rule[C]]) -> None:
    """Refuses options that break a rule, all of them in one message.

    Args:
        config: an options object with `explicit`, the names of those that were given.
        rules: an option that was not given breaks none.

    Raises:
        UserError: a rule is broken, or a file or folder that is named is not there.
    """
    faults = [
        f"--{dashed(name)} {rule.words}"
        for rule in rules
        for name in rule.options
        if name in config.explicit and is_said(getattr(config, name)) and not rule.holds(config)
    ]
    faults += _missing_places(config)
    if faults:
        raise UserError("\n  ".join([*dict.fromkeys(faults), "nothing was started"]))


def alone(names: Sequence[str]) -> list[Rule[Any]]:
    """Rules by which at most one of some options is given; the first of them that is given speaks."""
    return [
        Rule((name,), partial(_speaks_for_one, names, name), f"excludes {_listed(names, name)}; give one of them")
        for name in names
    ]


def check_training(config: Trained, own: Sequence[Rule[Trained]] = ()) -> None:
    """Checks training options; those of a resumed run are the saved ones, so that only what concerns it counts.

    Args:
        config: the options.
        own: rules of the application.

    Raises:
        UserError: see `check`; or there is no such run or family, or a new run's name cannot be used.
    """
    rules: Sequence[Rule[Trained]] = RESUMED if config.resume is not None else (*NEW, *own)
    check(config, rules)
    if config.resume is not None and group_of(config.resume) is None:
        run_to_resume(config.resume)
    if config.start_from is not None and config.resume is None:
        find_run(config.start_from)
    if config.seeds is not None:
        seeds_of(config.seeds)
    if config.run is not None and "RANK" not in os.environ:  # several processes share a new run, and one makes it
        check_new_name(config.run)
    families = schedule_families()
    if config.new_schedule is not None and config.new_schedule not in families:
        near = did_you_mean(config.new_schedule, families)
        raise UserError(f"--new-schedule={config.new_schedule}: unknown family; {near}; nothing was started")


def check_testing(config: Tested, own: Sequence[Rule[Tested]] = ()) -> None:
    """Checks test options, like `check_training`."""
    check(config, (*TESTED, *own))
    for name in (config.run, config.baseline):
        if name is not None and (name != config.run or group_of(name) is None):
            find_run(name)


def _speaks_for_one(names: Sequence[str], name: str, config: object) -> bool:
    others = _others(config, names, name)
    return not others or names.index(others[0]) < names.index(name)


def _others(config: object, names: Iterable[str], name: str) -> list[str]:
    return [other for other in names if other != name and is_said(getattr(config, other, None))]


def _listed(names: Iterable[str], without: str) -> str:
    return ", ".join(f"--{dashed(name)}" for name in names if name != without)


def _missing_places(config: TrainConfig | TestConfig) -> list[str]:
    """Faults of options whose value names a file or folder that is not there."""
    faults = []
    for name, field in type(config).__dataclass_fields__.items():
        value = getattr(config, name)
        wanted = field.metadata.get("metavar")
        if name in config.explicit and wanted in PLACES and value is not None and not os.path.exists(value):
            what = {"FOLDER": "folder", "FILE": "file"}.get(wanted, "file or folder")
            faults.append(f"--{dashed(name)}={value}: there is no such {what}")
    return faults


def _trains(config: TrainConfig) -> bool:
    return not any(getattr(config, name) for name in MODES)


def _evaluates(config: TestConfig) -> bool:
    """Whether `test.py` measures a checkpoint, which alone has a sensitivity analysis."""
    elsewhere = _others(config, ("compare", "benchmark", "dump_features", "quantize", "prune", "predict"), "")
    return not elsewhere and not _exported(config)


def _exports(config: TestConfig) -> bool:
    """Whether `test.py` exports the network; `--compare` and `--benchmark` do, to weigh and to time the files."""
    elsewhere = _others(config, ("dump_features", "predict", "prune"), "")
    return (config.export or bool(config.compare) or config.benchmark) and not elsewhere and not _exported(config)


def _carries(config: TestConfig) -> bool:
    """Whether the network is converted for runtimes, here or in a bundle for a device."""
    return (config.runtimes is not None or config.bundle is not None) and not _exported(config)


def of_remedies(config: TestConfig) -> bool:
    """Whether `--write-schedule` names a file for the remedies of `--diagnose`."""
    return config.diagnose and (config.write_schedule or "").endswith(YAML)


def _exported(config: TestConfig) -> bool:
    return config.model is not None and config.model.endswith(EXPORTED)


NEW: tuple[Rule[TrainConfig], ...] = (
    *alone(MODES),
    *alone(("precision", "amp")),
    Rule(("plan", "smoke"), lambda c: c.compress, "is about a schedule; name one with --compress"),
    Rule(("strict",), lambda c: c.compress, "is about a schedule; name one with --compress"),
    Rule(
        ("reset_optimizer", "reset_schedule", "thin"),
        lambda c: False,
        "is for a run that continues; give --resume=RUN with it",
    ),
    Rule(("compress",), lambda c: c.nEpochs != 0, "acts in epochs, and --nEpochs=0 leaves none"),
    Rule(("seeds",), lambda c: c.nEpochs != 0, "trains several runs, and --nEpochs=0 trains none"),
    Rule(("seeds",), _trains, "trains several runs, and the other option trains none"),
    Rule(("seed",), lambda c: c.seeds is None, "is one seed, and --seeds names several; give one of the two"),
    Rule(
        ("run",),
        lambda c: _trains(c) or c.plan,
        "names what is written; --smoke and options that list write nothing, so leave it out",
    ),
)
RESUMED: tuple[Rule[TrainConfig], ...] = (
    Rule(
        MODES,
        lambda c: False,
        "looks at a new run's schedule, and --resume continues with a run; of that run, give the same options and "
        "--compress=logs/RUN/schedule.yaml, without --resume",
    ),
    Rule(("start_from",), lambda c: False, "starts a new run, and --resume continues with one that has started"),
    Rule(("seeds",), lambda c: False, "starts a new group; --resume=GROUP continues with all the seeds of one"),
    Rule(("run",), lambda c: False, "names a new run, and --resume continues with one under its own name"),
)
TESTED: tuple[Rule[TestConfig], ...] = (
    *alone(("compare", "dump_features", "quantize", "prune", "predict")),
    *alone(("model", "run", "compare")),
    Rule(
        ("dump_features", "quantize", "prune", "predict", "thin", "benchmark", "runtimes"),
        lambda c: group_of(c.run) is None,
        "is about one run, and --run names a group of seeds; name one of its runs",
    ),
    Rule(
        ("benchmark",),
        lambda c: not _others(c, ("dump_features", "quantize", "prune", "predict"), ""),
        "only measures time",
    ),
    Rule(("batch",), lambda c: c.compare or c.benchmark, "belongs to --compare and --benchmark"),
    Rule(("layers", "num"), lambda c: c.dump_features, "belongs to --dump-features"),
    Rule(("dump_features",), lambda c: c.layers, "needs --layers=NAME,NAME..., the layers whose outputs are written"),
    Rule(
        ("dump_features",),
        lambda c: str(c.dump_features).endswith(".npz"),
        "writes a file of the kind .npz; name it so",
    ),
    Rule(
        ("dump_features", "quantize", "prune"), lambda c: not _exported(c), "needs a checkpoint, not an exported file"
    ),
    Rule(
        ("reduce_range", "complete"),
        lambda c: _exports(c) or _carries(c),
        "is about the integer files of the export, which are not written with --no-export, --prune, another mode or "
        "--model=FILE.onnx",
    ),
    Rule(
        ("formats",),
        lambda c: (_exports(c) or _carries(c)) and not (c.compare or c.benchmark),
        "is about the files of one run's export, of --runtimes and of --bundle, which the other options or an exported "
        "file leave out",
    ),
    Rule(
        ("free_axes",),
        lambda c: not c.fixed_size,
        "frees sizes, and --fixed-size fixes them; give one of the two",
    ),
    Rule(
        ("free_axes", "fixed_size"),
        _exports,
        "is about the exported ONNX file, which is not written with --no-export, --prune, another mode or "
        "--model=FILE.onnx",
    ),
    Rule(
        ("thin",),
        lambda c: not _exported(c) and not _others(c, ("compare", "benchmark", "predict"), ""),
        "thins the checkpoint that is evaluated, and an exported file or the other options evaluate none",
    ),
    Rule(
        ("arch",),
        lambda c: all(map(is_own, c.arch or ())),
        "names networks of your own, as FILE.py:CLASS or MODULE:CLASS; which other one a checkpoint has is in it",
    ),
    Rule(
        ("unused",),
        lambda c: c.thin or c.prune or c.layer_table or (_evaluates(c) and c.sense in ("filter", "channel")),
        "is about what can leave a network: --thin, --prune, --layer-table, and --sense=filter or channel",
    ),
    Rule(("overwrite",), lambda c: c.thin, "belongs to --thin"),
    Rule(
        ("bits",),
        lambda c: c.compare or c.benchmark or c.runtimes is not None,
        "belongs to --compare, --benchmark and --runtimes",
    ),
    Rule(("layer_table",), lambda c: c.bundle, "belongs to --bundle"),
    Rule(
        ("diagnose", "bundle", "device_results"),
        _evaluates,
        "looks at the network of a checkpoint, which the other options leave out",
    ),
    Rule(
        ("runtimes",),
        lambda c: not _exported(c) and not _others(c, ("dump_features", "predict", "quantize", "prune"), ""),
        "measures the network of a checkpoint, not an exported file; after --quantize, give "
        "--model=results/RUN/quantized.pt",
    ),
    Rule(
        ("bits",), lambda c: not any(map(group_of, c.compare or ())), "is about runs; --compare names a group of seeds"
    ),
    Rule(("calibration",), lambda c: c.quantize or c.prune or c.bits, "belongs to --quantize, --prune and --bits"),
    Rule(("calibration_data",), lambda c: c.quantize or c.prune, "belongs to --quantize and --prune"),
    Rule(
        ("calibration_data",),
        lambda c: c.quantize != "auto" or c.calibration_data == "training",
        "generated is calibration without data, and --quantize=auto chooses by the validation data; "
        "give a file of settings, such as --quantize=ptq.yaml",
    ),
    Rule(("max_drop",), lambda c: c.quantize == "auto", "belongs to --quantize=auto"),
    Rule(("bits_budget",), lambda c: c.quantize == "mixed", "belongs to --quantize=mixed"),
    Rule(
        ("quantize",),
        lambda c: c.quantize != "mixed" or c.bits_budget,
        "mixed needs --bits-budget=size:X or bitops:X, a share of the float network's",
    ),
    Rule(
        ("sense",),
        lambda c: c.sense == "none" or _evaluates(c),
        "belongs to the sensitivity analysis, which the other options or an exported file leave out",
    ),
    Rule(
        ("full", "jobs", "sense_data", "sense_queue", "tolerance", "write_schedule"),
        _evaluates,
        "belongs to the sensitivity analysis, which the other options or an exported file leave out",
    ),
    Rule(
        ("full", "jobs", "sense_data", "sense_queue", "tolerance"),
        lambda c: c.sense != "none",
        "belongs to the sensitivity analysis, which --sense=none leaves out",
    ),
    Rule(("sense_queue",), lambda c: c.jobs == 1, "shares the curves itself: start more processes instead of --jobs"),
    Rule(
        ("write_schedule",),
        lambda c: c.sense != "none" or of_remedies(c),
        "belongs to the sensitivity analysis, which --sense=none leaves out; with --diagnose it takes FILE.yaml",
    ),
    Rule(
        ("write_schedule",),
        lambda c: c.diagnose or not str(c.write_schedule).endswith(YAML),
        "takes FILE.yaml with --diagnose only; after the sensitivity analysis it takes tolerance=X",
    ),
    Rule(("baseline",), _evaluates, "is beside the evaluation of a checkpoint, which the other options leave out"),
)
