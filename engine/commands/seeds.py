"""The same training under several seeds: `train.py --seeds 5`, and `test.py --run=GROUP`.

Members are runs like any other. What is there already is not done again, so a group that was interrupted resumes.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

from apputils.compare.seeds import group_page, group_summary, group_table
from apputils.report.records import read_json
from apputils.report.write import write_text
from apputils.runs.console import BY_SIGNAL, Interrupted
from apputils.runs.folders import dated_name
from apputils.runs.seed_groups import SeedGroup, group_of, seeds_of
from compress.analysis.measured_words import measured_words
from compress.errors import UserError
from compress.io.files import write_json
from engine.resume import RESETS, resumed, schedule_text
from engine.saved.group_members import OF_A_MEMBER, check_finished, check_like_others, check_members, check_there
from engine.state import plain_options
from options.configs import TestConfig, TrainConfig
from options.option import dashed
from options.own_network import to_type_again

logger = logging.getLogger("run")
C = TypeVar("C", bound=TrainConfig)
T = TypeVar("T", bound=TestConfig)
OF_ONE_RUN = frozenset({"nEpochs", *RESETS})  # that --resume takes


def train_seeds(config: C, train: Callable[..., Mapping[str, Any]]) -> dict[str, Any]:
    """Trains one run for each seed and writes the group's summary; resumes a group.

    Args:
        config: the options, with `seeds`, or with `resume`, the name of a group.
        train: trains or resumes one run and returns its summary; called with its options, for a new run also with
            what is called with its trainer before anything starts.

    Raises:
        UserError: an option is refused, a run failed, or one is not of this training; runs that are finished are kept.
            Of a new group whose first run did not begin nothing is left.
        Interrupted: a signal came; everything is saved.
    """
    new = config.resume is None
    if new:
        assert config.seeds is not None, "one of the two starts a group"
        group = SeedGroup(
            config.run or dated_name(f"{config.stem()}-seeds"), config.optform, seeds_of(config.seeds),
            {name: value for name, value in plain_options(config).items() if name not in OF_A_MEMBER},
            schedule_text(config, None),
        )  # fmt: skip
    else:
        group, config = _resumed(config)
        check_there(group)
        check_members(group)
    logger.info("group %s: seeds %s", group.name, ", ".join(map(str, group.seeds)))
    with _new(group) if new else nullcontext():
        summaries = {seed: _member(config, group, seed, train) for seed in group.seeds}
    check_members(group)  # the data may have changed in between
    return _written(group, summaries, "summary.json", f"python test.py --run={group.name}{to_type_again(config)}")


@contextmanager
def _new(group: SeedGroup) -> Iterator[None]:
    """Keeps a new group; its name is free again where no run begins, as with data that cannot be read."""
    group.write()
    try:
        yield
    finally:
        if not group.begun:
            group.remove()


def _resumed(config: C) -> tuple[SeedGroup, C]:
    """A group as it was started, and the options of its runs."""
    group = group_of(config.resume)
    assert group is not None, "the caller has seen it"
    of_one = sorted(config.explicit & OF_ONE_RUN)
    if of_one:
        raise UserError(
            f"--{dashed(of_one[0])} is about one run, and {group.name} is a group of seeds; name a run of it"
        )
    saved = {"optform": group.optform, "options": dict(group.options), "schedule_text": group.schedule_text}
    config = resumed(config, saved)
    return group, dataclasses.replace(config, resume=None)


def _member(config: C, group: SeedGroup, seed: int, train: Callable[..., Mapping[str, Any]]) -> Mapping[str, Any]:
    """The summary of one run: there already, resumed or trained."""
    run = group.members[seed]
    if (done := read_json(run.results / "summary.json")) is not None:
        logger.info("seed %d: %s is finished", seed, run.name)
        return done
    own = dataclasses.replace(config, seeds=None, seed=seed, run=run.name)
    checks: list[Callable[[Any], None]] = []
    if run.kept_files():
        own = dataclasses.replace(own, run=None, resume=run.name)
    else:
        _same_schedule(group, own)
        checks.append(partial(check_like_others, group))
    logger.info("seed %d: %s", seed, run.name)
    try:
        return train(own, *checks)
    except Interrupted as e:
        if not group.begun:
            raise
        raise Interrupted(e.code - BY_SIGNAL, f"{e}\n--resume={group.name} continues with the whole group") from e
    except UserError as e:
        if not group.begun:
            raise
        raise UserError(f"{e}\n--resume={group.name} continues with the group's other seeds once that is mended") from e


def _same_schedule(group: SeedGroup, config: TrainConfig) -> None:
    """Refuses to give another seed another schedule."""
    if schedule_text(config, None) != group.schedule_text:
        raise UserError(
            f"{config.compress} is not what it was when the group {group.name} was started, and its other seeds would "
            "be trained under another schedule; put it back, or start a new group"
        )


def test_seeds(opt: T, group: SeedGroup, test: Callable[[T], Mapping[str, Any]]) -> dict[str, Any]:
    """Tests each run of a group, and writes the group's summary and page.

    Args:
        opt: the test options.
        group: that `opt.run` names.
        test: tests one run and returns its summary.

    Raises:
        UserError: a run is not there yet, its network is gone, or it is not of the group's training.
    """
    check_there(group)
    check_finished(group)
    check_members(group)
    summaries = {}
    for seed, run in group.members.items():
        logger.info("seed %d: %s", seed, run.name)
        summaries[seed] = test(dataclasses.replace(opt, run=run.name))
    then = f"python test.py --compare {group.name} OTHER_GROUP{to_type_again(opt)}"
    inside = next(iter(summaries.values())).get("folder", ".")  # of the members' results, for the group's too
    summary = _written(group, summaries, f"{inside}/test_summary.json", then)
    write_text(group.folders.results / inside / "report.html", group_page(summary))
    return summary


def _written(group: SeedGroup, summaries: Mapping[int, Mapping[str, Any]], file: str, then: str) -> dict[str, Any]:
    """Writes and shows what the runs gave together."""
    _check_same_images(group, summaries)
    folder = group.folders.results
    summary = group_summary(group, summaries)
    write_json(folder / file, summary)
    logger.info("\n%s\n", group_table(summary))
    logger.info("written: %s\nnext: %s", folder / file, then)
    return summary


def _check_same_images(group: SeedGroup, summaries: Mapping[int, Mapping[str, Any]]) -> None:
    """Refuses quality on different data."""
    words = {group.members[seed].name: measured_words(each["measured_on"]) for seed, each in summaries.items()}
    if len(set(words.values())) > 1:
        listed = "; ".join(f"{name} on {text}" for name, text in words.items())
        raise UserError(f"quality on different data has no mean: {listed}; test the runs one by one")
