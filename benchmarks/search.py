"""The search beside a random one: goals met on validation and test data, quality at the end, in the same minutes.

    python -m benchmarks.search --minutes 60 [--problems sr,deblur,digits] [--seeds 0,1,2] [--samplers tpe,random]

Runs search.py in processes of its own, in a temporary folder, from one dense run and one latency model a problem, and
prints a line a search: its exit code, the goals' values and verdicts on validation and on test data, trials, wall time;
then all as a table. In a folder that is kept (`--folder`), searches that are done are not repeated, and
`python benchmarks/results.py --only search --searches FOLDER` puts them on the page of results. Needs Optuna.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results_page import Line
from compress.goals.judge import MET, shortfall

ROOT = Path(__file__).resolve().parents[1]
QUALITIES = ("psnr", "top1")

# In a folder where every search looks for the latency model of an earlier study.
MEASURE = """
from pathlib import Path
from engine.search.subject import Subject
folder = Path("studies", "model")
folder.mkdir(parents=True, exist_ok=True)
Subject("dense", {threads}, "cpu", 0, folder).latency
"""


@dataclass(frozen=True)
class Problem:
    """What is searched for.

    Attributes:
        dense: options that train the dense network.
        optform: application.
        goals: of each search, lines of `goals:`.
    """

    dense: tuple[str, ...]
    optform: str
    goals: tuple[str, ...]


def _goals(metric: str, drop: float, bounds: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(
        f"goals:\n  - {{metric: latency, at_most: {bound}}}\n  - {{metric: {metric}, drop_at_most: {drop}}}\n"
        for bound in bounds
    )


# Chosen by a first look: the narrowest networks need 0.27, 0.33 and 0.28 of the dense time (8 bits: 0.41, 0.55, 0.28),
# and Deblur's have lost everything before they reach 0.5.
PROBLEMS = {
    "sr": Problem(("--optform=SR", "--compress=baseline.yaml"), "SR", _goals("psnr", 0.2, (0.6, 0.5, 0.4))),
    "deblur": Problem(("--optform=Deblur", "--compress=baseline.yaml"), "Deblur",
                      _goals("psnr", 0.2, (0.7, 0.6, 0.55))),
    "digits": Problem(("--optform=Classify", "--arch=resnet20", "--nEpochs=10"), "Classify",
                      _goals("top1", 1.0, (0.6, 0.5, 0.4))),
    "tiny": Problem(("--optform=SR", "--samples=160", "--nEpochs=12"), "SR", _goals("psnr", 0.3, (0.5,))),
}  # fmt: skip


def run(program: str, folder: Path, *arguments: str, log: str = "log.txt") -> int:
    """One of the entry points, or `-c` and code, in a folder; its exit code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    what = program if program == "-c" else str(ROOT / program)
    with (folder / log).open("a") as said:
        return subprocess.run([sys.executable, what, *arguments], cwd=folder, env=environment,
                              stdout=said, stderr=said, check=False).returncode  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What a search found.

    Attributes:
        name: problem, goals, seed and sampler.
        code: exit code.
        validation: record of the goals on validation data; None: no candidate was trained.
        test: the same on test data.
        trials: how many there were.
        minutes: of wall time, all in all.
        said: the log's last line.
        given: arguments of the search; None of an earlier version's.
    """

    name: str
    code: int
    validation: dict[str, Any] | None
    test: dict[str, Any] | None
    trials: int
    minutes: float
    said: str
    given: list[str] | None = None

    def cells(self) -> list[Any]:
        """Of the table."""
        return [self.name, self.code, _words(self.validation), _words(self.test), self.trials, round(self.minutes, 1)]

    def __str__(self) -> str:
        found = f"validation {_words(self.validation)}; test {_words(self.test)}" if self.validation else self.said
        return f"{self.name}: exit code {self.code}; {found}; {self.trials} trials, {self.minutes:.1f} minutes"


def search(folder: Path, problem: Problem, goals: str, name: str, arguments: list[str]) -> Row:
    """One search, or what it found when it was run before."""
    kept = folder / f"{name}.json"
    if kept.is_file():
        if (row := kept_row(kept)).given is not None and row.given != arguments:
            raise SystemExit(f"{kept} was searched with {' '.join(row.given)}; name another --folder")
        return row
    (folder / f"{name}.yaml").write_text(goals)
    started = time.perf_counter()
    given = [f"--optform={problem.optform}", f"--goals={name}.yaml", "--start-from=dense", f"--study={name}"]
    code = run("search.py", folder, *given, *arguments, log=f"{name}.txt")
    minutes = (time.perf_counter() - started) / 60
    study = folder / "studies" / name
    result = study / "result.json"
    found = json.loads(result.read_text()) if result.is_file() else {"goals": None, "test": None}
    trials = len(list(study.glob("trial[0-9]*.yaml")))
    row = Row(name, code, found["goals"], found["test"], trials, minutes, _last_line(folder / f"{name}.txt"), arguments)
    kept.write_text(json.dumps(vars(row), indent=1))
    return row


def kept_row(file: Path) -> Row:
    """A search that was run before."""
    try:
        return Row(**json.loads(file.read_text()))
    except (ValueError, TypeError) as e:
        raise SystemExit(f"{file} cannot be read ({e}); remove it, and the search runs again") from e


def lines_of(folder: Path) -> Iterator[Line]:
    """For the page of results: the searches that a folder keeps, each beside the random one of the same minutes."""
    kept = [kept_row(each) for each in sorted(folder.glob("*/*-seed*-*.json"))]
    if not kept:
        raise SystemExit(f"{folder} holds no search that is done, as its PROBLEM/NAME-seed0-tpe.json; nothing was kept")
    random = {row.name.removesuffix("-random"): row for row in kept if row.name.endswith("-random")}
    for row in kept:
        name, _, sampler = row.name.rpartition("-")
        if sampler == "random":
            continue
        other, is_met = random.get(name), row.validation is not None and row.validation["verdict"] == MET
        told, goal = str(row).partition(": ")[2], "met on validation"
        if other is not None and (other.given or ())[:1] == (row.given or ())[:1]:  # the same --minutes
            goal += ", not behind random"
            is_met = is_met and rank(row.validation) >= rank(other.validation)
            told += f" (random: {str(other).partition(': ')[2]})"
        yield Line(f"search, {name}", "Optuna's random sampler, the same minutes", told, goal, is_met)


def _last_line(log: Path) -> str:
    return next((line for line in reversed(log.read_text().splitlines()) if line.strip()), "")


def _words(record: dict[str, Any] | None) -> str:
    if record is None:
        return "not measured"
    rows = [f"{row['goal']}: {row['value']:.3f} {row['verdict']}" for row in record["rows"] if row["value"] is not None]
    return f"{record['verdict']} ({', '.join(rows)})"


def table(rows: list[Row]) -> str:
    """All searches, and how many of each sampler met their goals."""
    lines = [tabulate([row.cells() for row in rows], ["search", "exit", "validation", "test", "trials", "minutes"])]
    for sampler in dict.fromkeys(row.name.rpartition("-")[2] for row in rows):
        own = [row for row in rows if row.name.endswith(f"-{sampler}")]
        met = [sum((each or {}).get("verdict") == MET for each in found)
               for found in ([row.validation for row in own], [row.test for row in own])]  # fmt: skip
        said = f"{met[0]} met their goals on validation, {met[1]} on test data"
        lines.append(f"{sampler}: of {len(own)} searches {said}")
    return "\n".join([*lines, *_pairs(rows)])


def _pairs(rows: list[Row]) -> list[str]:
    """How often each sampler was as good as the random one that had the same goals and seed."""
    split = {tuple(row.name.rpartition("-")[::2]): row for row in rows}
    lines = []
    for sampler in dict.fromkeys(sampler for _, sampler in split if sampler != "random"):
        pairs = [(row, split[name, "random"]) for (name, own), row in split.items()
                 if own == sampler and (name, "random") in split]  # fmt: skip
        good = [sum(rank(a) >= rank(b) for a, b in each) for each in (
            [(a.validation, b.validation) for a, b in pairs], [(a.test, b.test) for a, b in pairs])]  # fmt: skip
        said = f"in {good[0]} of {len(pairs)} pairs on validation, in {good[1]} on test data"
        lines += [f"{sampler}: better than random or equal {said}"] if pairs else []
    return lines


def rank(record: dict[str, Any] | None) -> tuple[float, float]:
    """What orders records of the same goals: how far they are from meeting them, then their quality."""
    if record is None or not record["rows"]:
        return -math.inf, -math.inf
    quality = sum(row["margin"] or 0.0 for row in record["rows"] if row["metric"] in QUALITIES)
    return -shortfall(record), quality


def main() -> None:
    """Prints a line a search, then the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--problems", default="sr,deblur,digits", help=f"of {', '.join(PROBLEMS)}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--samplers", default="tpe,random")
    parser.add_argument("--goals", type=int, default=None, help="only the first so many of each problem")
    parser.add_argument("--threads", type=int, default=1, help="of every process")
    parser.add_argument("--folder", type=Path, help="where runs and logs are kept (default: a temporary folder)")
    given = parser.parse_args()
    rows = []
    for key in given.problems.split(","):
        with tempfile.TemporaryDirectory() as place:
            folder = (given.folder or Path(place)) / key
            folder.mkdir(parents=True, exist_ok=True)
            for row in _of_problem(key, folder, given):
                print(row, flush=True)
                rows.append(row)
    print(table(rows))


def prepare(key: str, folder: Path, threads: int) -> None:
    """Trains a problem's dense network and measures its latency model, unless they are there."""
    if not (folder / "results" / "dense" / "summary.json").is_file() and run(
        "train.py", folder, *PROBLEMS[key].dense, f"--threads={threads}", "--run=dense"
    ):
        sys.exit(f"the dense network of {key} could not be trained: {_last_line(folder / 'log.txt')}")
    if run("-c", folder, MEASURE.format(threads=threads)):
        sys.exit(f"no latency model of {key} could be measured: {_last_line(folder / 'log.txt')}")


def _of_problem(key: str, folder: Path, given: argparse.Namespace) -> Iterator[Row]:
    """The searches of a problem, from one dense run and one latency model."""
    problem, threads = PROBLEMS[key], f"--threads={given.threads}"
    prepare(key, folder, given.threads)
    for number, goals in enumerate(problem.goals[: given.goals]):
        for seed in given.seeds.split(","):
            for sampler in given.samplers.split(","):
                own = [f"--minutes={given.minutes}", f"--seed={seed}", f"--sampler={sampler}", threads]
                yield search(folder, problem, goals, f"{key}-{number}-seed{seed}-{sampler}", own)


if __name__ == "__main__":
    main()
