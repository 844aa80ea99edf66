"""Broken schedules give a working scheduler or one clean report: never another exception, never a hang."""

import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from compress.config.build import build_text
from compress.config.families import FAMILIES
from compress.errors import UserError
from models.C2SRCNN.model import Net
from tests.compress.config.mutate import mutate
from tests.compress.harness import tiny_net
from tests.compress.test_contract import sample_of
from tests.fuzz.watch import LONGEST_LINE, MOST_GROWTH, SECONDS, limited, resident

ROOT = Path(__file__).resolve().parents[2]
CHUNK = 100


def _samples() -> list[str]:
    """A schedule from the docstring's sample of every class that has one."""
    found = []
    for family in FAMILIES:
        for name in family.registry:
            cls = family.registry.get(name)
            if not cls.__module__.startswith("compress.") or name == "PostTrainLinearQuantizer":  # has no policy
                continue
            data = yaml.safe_load(sample_of(cls))
            (instance,) = data[family.section]
            window = {"starting_epoch": 0, "ending_epoch": 4, "frequency": 1}
            data["policies"] = [{family.key: {"instance_name": instance}, **window}]
            found.append(yaml.safe_dump(data, sort_keys=False))
    return found


FILES = sorted([*(ROOT / "schedules").rglob("*.yaml"), *(ROOT / "tests" / "original_schedules").glob("*.yaml")])
SOURCES: list[tuple[str, Callable[[], nn.Module]]] = [
    *((path.read_text(encoding="utf-8"), lambda: Net(2)) for path in FILES),
    *((text, tiny_net) for text in _samples()),
]


def outcome(text: str, make: Callable[[], nn.Module]) -> str:
    """`works` or `refused`; anything else raises."""
    net = make()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    try:
        with limited(SECONDS):
            scheduler = build_text(text, "fuzz.yaml", net, optimizer)
            scheduler.preview()
            scheduler.cut_short(3)
            yaml.safe_dump(scheduler.resolved)
    except UserError as e:
        report = str(e)
    else:
        return "works"
    assert report.startswith("the schedule has ")
    assert len(max(report.splitlines(), key=len)) < LONGEST_LINE, "a fault's line is endless"
    return "refused"


def run_cases(first: int, count: int) -> dict[str, int]:
    """Cases by number, so that one can be run again; gives how often each outcome came."""
    logging.getLogger("compress").setLevel(logging.ERROR)
    counts = {"works": 0, "refused": 0}
    for number in range(first, first + count):
        rng = random.Random(number)
        text, make = SOURCES[number % len(SOURCES)]
        text = mutate(text, rng)
        try:
            counts[outcome(text, make)] += 1
        except Exception as e:
            raise AssertionError(f"case {number}: {type(e).__name__}: {e}\n{text[:3000]}") from e
    return counts


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """The first scheduler imports much of torch, which is not what the limit is for."""
    net = tiny_net()
    build_text(SOURCES[-1][0], "warm.yaml", net, torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)).preview()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Warnings of schedules are not of interest here."""
    level = logging.getLogger("compress").level
    yield
    logging.getLogger("compress").setLevel(level)


def test_the_sources_themselves_work_or_need_what_is_to_come() -> None:
    """`Reparameterize` needs blocks that fuse, which this network has not."""
    wanted = ["refused" if "Reparameterize" in text else "works" for text, _ in SOURCES[len(FILES) :]]
    assert [outcome(text, make) for text, make in SOURCES[len(FILES) :]] == wanted
    assert wanted.count("works") == len(_samples()) - 1


@pytest.mark.parametrize("first", range(0, 300, CHUNK))
def test_broken_schedules_work_or_are_refused(first: int) -> None:
    counts = run_cases(first, CHUNK)
    assert min(counts.values()) > 5, "the mutator breaks everything, or nothing"


@pytest.mark.slow
@pytest.mark.parametrize("first", range(300, 10_300, 1000))
def test_ten_thousand_broken_schedules_work_or_are_refused(first: int) -> None:
    run_cases(first, 200)
    memory = resident()
    run_cases(first + 200, 800)
    assert resident() - memory < MOST_GROWTH
