"""Two workers of a search beside one: trials in the same minutes, one thread each.

    python -m benchmarks.search_workers [--minutes 4] [--problem tiny] [--rounds 2] [--folder PLACE]

Runs search.py in processes of its own from one dense run and one latency model, in each round once with one worker and
once with two, with the random sampler, so that no worker waits for what another one finds out. Prints the trials that
were done in all, failed ones too, and their ratio. Needs Optuna and two free cores.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.search import PROBLEMS, ROOT, Problem, prepare
from compress.io.optional import needed

MISSED = 4  # exit code of a search whose goals are missed
START = 0.5  # seconds between looks for the study's file


def trials_of(folder: Path, problem: Problem, name: str, workers: int, minutes: float, seed: int) -> int:
    """Trials that a new study ends with."""
    if (folder / "studies" / name).exists():
        sys.exit(f"{folder / 'studies' / name} is there already, of an earlier measurement; remove it")
    (folder / f"{name}.yaml").write_text(problem.goals[0])
    program, common = [sys.executable, str(ROOT / "search.py")], [f"--study={name}", f"--minutes={minutes}"]
    first = [f"--goals={name}.yaml", "--start-from=dense", f"--optform={problem.optform}", "--sampler=random",
             f"--seed={seed}", "--threads=1"]  # fmt: skip
    with (folder / f"{name}.txt").open("a") as said:
        started = [subprocess.Popen([*program, *common, *first], cwd=folder, stdout=said, stderr=said)]
        while not (folder / "studies" / name / "study.json").is_file() and started[0].poll() is None:
            time.sleep(START)
        started += [subprocess.Popen([*program, *common, "--resume"], cwd=folder, stdout=said, stderr=said)
                    for _ in range(workers - 1)]  # fmt: skip
        if any([each.wait() not in (0, MISSED) for each in started]):
            sys.exit(f"a worker failed: {folder / name}.txt")
    optuna = needed("optuna", "the benchmark")
    journal = str(folder / "studies" / name / "journal.log")
    backend = optuna.storages.journal.JournalFileBackend(journal)
    study = optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))
    return sum(each.state.is_finished() for each in study.get_trials(deepcopy=False))


def main() -> None:
    """Prints a line a round, then the ratios' median."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--problem", default="tiny", help=f"of {', '.join(PROBLEMS)}")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where runs and logs are kept (default: a temporary folder)")
    given = parser.parse_args()
    problem, ratios = PROBLEMS[given.problem], []
    with tempfile.TemporaryDirectory() as place:
        folder = (given.folder or Path(place)) / given.problem
        folder.mkdir(parents=True, exist_ok=True)
        prepare(given.problem, folder, 1)
        for number in range(given.rounds):
            one, two = (
                trials_of(folder, problem, f"workers-{workers}-{number}", workers, given.minutes, number)
                for workers in (1, 2)
            )
            ratios.append(two / max(one, 1))
            print(f"{given.problem}, {given.minutes:g} minutes: {one} trials of one worker, {two} of two: "
                  f"{ratios[-1]:.2f} times", flush=True)  # fmt: skip
    print(f"median of {len(ratios)} rounds: {statistics.median(ratios):.2f} times")


if __name__ == "__main__":
    main()
