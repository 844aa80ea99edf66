"""Runs that are killed with SIGKILL at random moments and resumed, against the same runs left alone.

    OMP_NUM_THREADS=1 python benchmarks/kill_and_resume.py --kills 20

For each kind of run below, `train.py` runs once to its end. Then, for each kill, a new run of the same options is
killed while it is inside of one of its phases (a step, saving, validation, thinning, exchanging layers), at a random
moment of that phase, and `--resume` takes it to its end. The last checkpoints of the two are compared to the bit:
network, averaged weights, optimizers, the scheduler's whole state, random state, and every number of the history. One
row a kill is printed; the exit code is 1 if one run differed.

Each run is a process of its own, forked from this one, which has imported torch already, and killed from outside. It
tells which phase it enters through a pipe, so that the kills can be spread over phases that take very different
times.
"""

import argparse
import os
import random
import runpy
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from tabulate import tabulate  # noqa: E402

from apputils.checkpoints.rotation import load_last, progress  # noqa: E402
from apputils.runs.folders import Run  # noqa: E402
from compress.policies.quantization import QuantizationPolicy  # noqa: E402
from compress.policies.thinning import ThinningPolicy  # noqa: E402
from engine.trainer import BaseTrainer  # noqa: E402
from models.Classify.solver import ClassifyTrainer  # noqa: E402
from models.Deblur.solver import DeblurTrainer  # noqa: E402

EPOCHS, EVERY = 4, 3  # epochs of a run, steps between its checkpoints (an epoch has five)
CLASSIFY = ("--optform=Classify", "--arch=lenet5", "--dropout=0.3", "--traindata=classes", "--batchSize=2")
DEBLUR = (
    "--optform=Deblur", "--samples=10", "--patch-size=32", "--batchSize=2", "--ngf=2", "--blocks=1", "--ndf=2",
    "--sharp-only", "--traindata=images", "--blur-length=12",
)  # fmt: skip
POLICY = "{starting_epoch: 0, ending_epoch: 4, frequency: 1, "
AGP = "agp: {class: AutomatedGradualPruner, initial_sparsity: 0.1, final_sparsity: 0.6, weights: [WEIGHT]}"
KINDS: dict[str, tuple[tuple[str, ...], str]] = {  # name -> options, schedule
    "AGP": (
        (*CLASSIFY, "--ema=0.8"),
        f"pruners: {{{AGP.replace('WEIGHT', 'fc1.weight')}}}\npolicies:\n- {POLICY}pruner: {{instance_name: agp}}}}\n",
    ),
    "filters, thinning": (
        (*CLASSIFY, "--optimizer=momentum"),
        "pruners: {p: {class: TaylorRankedFilterPruner, desired_sparsity: 0.5, weights: [conv2.weight], batches: 2}}\n"
        "extensions: {t: {class: FilterRemover}}\npolicies:\n- {pruner: {instance_name: p}, epochs: [1]}\n"
        "- {extension: {instance_name: t}, epochs: [1]}\nfine_tuning_epochs: 2\n",
    ),
    "PACT": (
        CLASSIFY,
        "quantizers: {q: {class: PACTQuantizer, bits_activations: 4, bits_weights: 4}}\npolicies:\n"
        "- {quantizer: {instance_name: q}, starting_epoch: 1, ending_epoch: 3, frequency: 1}\n",
    ),
    "distillation": (
        CLASSIFY,
        "distillers:\n  k: {class: KnowledgeDistillation, teacher: self}\n"
        "  o: {class: OutputDistillation, teacher: self}\n"
        "policies:\n- {distiller: {instance_name: k}, starting_epoch: 1, ending_epoch: 3, frequency: 1}\n"
        "- {distiller: {instance_name: o}, starting_epoch: 2, ending_epoch: 4, frequency: 1}\n",
    ),
    "ReduceLROnPlateau": (
        CLASSIFY,
        "lr_schedulers: {lr: {class: ReduceLROnPlateau, mode: min, patience: 0, factor: 0.5, threshold: 0.5}}\n"
        f"policies:\n- {POLICY}lr_scheduler: {{instance_name: lr}}}}\n",
    ),
    "Deblur GAN": (
        DEBLUR,
        f"pruners: {{{AGP.replace('WEIGHT', 'netG.blocks.*.weight')}}}\n"
        "lr_schedulers: {lr: {class: MultiStepLR, milestones: [1], gamma: 0.1}}\n"
        f"policies:\n- {POLICY}pruner: {{instance_name: agp}}}}\n"
        f"- {POLICY}optimizer: netD, lr_scheduler: {{instance_name: lr}}}}\n",
    ),
}  # fmt: skip
PHASES: dict[str, tuple[Any, str]] = {  # what a phase is called -> the function that it lasts
    "step": (BaseTrainer, "note_step"),  # from here to here: told apart below
    "saving": (BaseTrainer, "save_all"),
    "thinning": (ThinningPolicy, "_thin"),
    "exchanging layers": (QuantizationPolicy, "_convert"),
}


class Moment(NamedTuple):
    """A phase that a process told of: when (seconds), what, in which epoch, after how many steps of it."""

    at: float
    phase: str
    epoch: int
    step: int


@dataclass
class Killed:
    """One row.

    Attributes:
        kind: of the run.
        phase: the kill fell into.
        where: epoch and step.
        resumed: where the checkpoint stood.
        verdict: `identical`, or what differs.
    """

    kind: str
    phase: str
    where: str
    resumed: str
    verdict: str


def tell_phases(write: int) -> None:
    """In the child: every phase is told through a pipe as it begins; after it comes a step again."""
    place = {"epoch": 0, "step": 0}

    def tell(phase: str) -> None:
        os.write(write, f"{phase}|{place['epoch']}|{place['step']}\n".encode())

    def told(owner: Any, name: str, phase: str, note: Callable[..., None] = lambda *_: None) -> None:
        original = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            note(*args)
            tell(phase)
            result = original(*args, **kwargs)
            tell("step")
            return result

        setattr(owner, name, wrapper)

    for phase, (owner, name) in PHASES.items():
        if phase == "step":
            told(owner, name, phase, lambda _, epoch, done: place.update(epoch=epoch, step=done))
        else:
            told(owner, name, phase)
    told(BaseTrainer, "run_epoch", "step", lambda _, epoch: place.update(epoch=epoch, step=0))
    for cls in (ClassifyTrainer, DeblurTrainer):
        told(cls, "validate", "validation")


def launch(arguments: list[str]) -> tuple[int, int]:
    """Starts `train.py` as a process; returns its number and the pipe of its phases."""
    read, write = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.close(write)
        return child, read
    os.close(read)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["train.py", *arguments]
    code = 0
    try:
        tell_phases(write)
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    except SystemExit as e:
        code = int(e.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    os._exit(code)


def follow(child: int, read: int, kill_at: tuple[int, float] | None = None) -> tuple[list[Moment], int]:
    """Reads a process's phases to its end; returns them and its exit code, -9 when it was killed.

    Args:
        child: its number.
        read: its pipe.
        kill_at: the number of the phase in which it is killed, and how many seconds after that began.
    """
    moments: list[Moment] = []
    with os.fdopen(read) as lines:
        for line in lines:
            phase, epoch, step = line.strip().split("|")
            moments.append(Moment(time.perf_counter(), phase, int(epoch), int(step)))
            if kill_at is not None and len(moments) == kill_at[0] + 1:
                time.sleep(kill_at[1])
                os.kill(child, signal.SIGKILL)
    return moments, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finished(arguments: list[str]) -> list[Moment]:
    """Runs `train.py` to its end."""
    moments, code = follow(*launch(arguments))
    if code:
        raise SystemExit(f"train.py {' '.join(arguments)} ended with {code}:\n" + Path("log.txt").read_text()[-2000:])
    return moments


def choose(moments: list[Moment], number: int, chance: random.Random) -> tuple[int, float]:
    """The phase to kill in, and the delay: kinds of phases take turns, the rest is chance."""
    spans = [(i, after.at - moment.at) for i, (moment, after) in enumerate(pairwise(moments))]
    first_saved = next(i for i, moment in enumerate(moments) if moment.phase == "saving") + 1
    kinds = sorted({moments[i].phase for i, _ in spans if i >= first_saved})
    wanted = kinds[number % len(kinds)]
    index, length = chance.choice([(i, s) for i, s in spans if i >= first_saved and moments[i].phase == wanted])
    return index, chance.uniform(0, length)


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two nested structures of plain data and tensors differ, to the bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.shape == b.shape and torch.equal(a, b) else [path]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [each for key in a for each in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [each for i in range(len(a)) for each in differences(a[i], b[i], f"{path}/{i}")]
    return [] if a == b else [path]


def final(run: str) -> dict[str, Any]:
    """The last checkpoint, without what may differ: names, times, options."""
    content = load_last(Run(run))
    history = [{key: row[key] for key in row if key != "images_per_second"} for row in content["history"]]
    leave = ("run", "options", "seconds", "history", "warnings")
    return {**{key: value for key, value in content.items() if key not in leave}, "history": history}


def one_kill(kind: str, whole: list[Moment], number: int, chance: random.Random) -> Killed:
    """Kills a new run, resumes it, and compares."""
    name, options = f"{kind.split()[0].strip(',')}-{number}", list(options_of(kind))
    moments, code = follow(*launch([*options, f"--run={name}"]), choose(whole, number, chance))
    fell = moments[-1]
    where = f"{fell.epoch}/{fell.step}"
    if code != -signal.SIGKILL:
        return Killed(kind, fell.phase, where, "-", "it had ended before")
    resumed = progress(load_last(Run(name)))
    finished(["--optform=" + options[0].split("=")[1], f"--resume={name}"])
    found = differences(final(whole_name(kind)), final(name))
    return Killed(kind, fell.phase, where, resumed, "identical" if not found else "DIFFERS: " + ", ".join(found[:3]))


def options_of(kind: str) -> tuple[str, ...]:
    """The command line of a kind of run, without its name."""
    options, schedule = KINDS[kind]
    file = Path(f"{whole_name(kind)}.yaml")
    file.write_text("version: 1\n" + schedule, encoding="utf-8")
    more = (f"--compress={file}", f"--nEpochs={EPOCHS}", f"--checkpoint-every={EVERY}", "--threads=1", "--device=cpu")
    return (*options, *more)


def whole_name(kind: str) -> str:
    """The run that nobody kills."""
    return "whole-" + kind.split()[0].strip(",")


def make_images() -> None:
    """Tiny images of noise: two classes, and sharp ones."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 5), ("val", 2), ("test", 1)):
        for name, level in (("dark", 60), ("light", 190)):
            folder = Path("classes") / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray((level + draw.integers(-60, 60, (16, 16))).astype(np.uint8)).save(folder / f"{i}.png")
        folder = Path("images") / part
        folder.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(draw.integers(0, 256, (44, 52, 3), dtype=np.uint8)).save(folder / f"{part}{i}.png")


def main() -> int:
    """Kills and resumes; 1 if a run differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of all kinds of runs together (default: 20)")
    parser.add_argument("--only", choices=list(KINDS), help="one kind of run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where the runs go, kept; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        make_images()
        rows = kill_all([given.only] if given.only else list(KINDS), given.kills, random.Random(given.seed))
    verdicts = Counter(row.verdict.split(":")[0] for row in rows)
    print(f"\n{len(rows)} kills: " + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()))
    return int(any(row.verdict.startswith("DIFFERS") for row in rows))


def kill_all(kinds: list[str], kills: int, chance: random.Random) -> list[Killed]:
    """The kills, spread over kinds of runs; each row is printed as it comes."""
    rows: list[Killed] = []
    print(f"{'run':20} {'killed in':18} {'epoch/step':10} {'resumed from':36} verdict")
    for place, kind in enumerate(kinds):
        whole = finished([*options_of(kind), f"--run={whole_name(kind)}"])
        for number in range(kills // len(kinds) + (place < kills % len(kinds))):
            row = one_kill(kind, whole, place + number, chance)
            rows.append(row)
            print(f"{row.kind:20} {row.phase:18} {row.where:10} {row.resumed:36} {row.verdict}", flush=True)
    print("\n" + tabulate(sorted(Counter(row.phase for row in rows).items()), ["killed in", "times"]))
    return rows


if __name__ == "__main__":
    sys.exit(main())
