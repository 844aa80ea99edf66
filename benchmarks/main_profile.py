"""Where the main command's time goes: python benchmarks/main_profile.py [--epochs 3] [--threads 1] [train.py's options]

    python benchmarks/main_profile.py --optform=SR --compress=agp_prune.yaml

Processor time of the training process by part, as a table in Markdown: waiting for and taking over minibatches, the
forward pass with the loss, the backward pass, the scheduler's hooks, the optimizer, validation, saving, and all before
the first step; and that of its worker processes. The run is made in a folder that is removed.
"""

import argparse
import contextlib
import os
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BEGAN = time.process_time()
HOOKS = (
    "on_epoch_begin", "on_minibatch_begin", "before_backward_pass", "before_parameter_optimization", "on_minibatch_end",
    "on_epoch_end",
)  # fmt: skip


class Parts:
    """Seconds by part; a part inside another counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._open: list[float] = []  # seconds of parts inside the open ones

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside counts for a part."""
        self._open.append(0.0)
        started = time.process_time()
        try:
            yield
        finally:
            whole = time.process_time() - started
            self.seconds[name] += whole - self._open.pop()
            if self._open:
                self._open[-1] += whole

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Calls of a method count for a part."""
        own: Callable[..., Any] = getattr(owner, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            with self.part(part):
                return own(*arguments, **keywords)

        setattr(owner, name, call)

    def watch_items(self, owner: Any, name: str, part: str) -> None:
        """What a generator does until its next item counts for a part."""
        own: Callable[..., Iterator[Any]] = getattr(owner, name)

        def call(*arguments: Any) -> Iterator[Any]:
            items = own(*arguments)
            while True:
                with self.part(part):
                    item = next(items, None)
                if item is None:
                    return
                yield item

        setattr(owner, name, call)

    def watch_steps(self, optimizer: Any, part: str) -> None:
        """An optimizer's steps count for a part; by its hooks, since learning-rate schedulers look at its method."""
        stack = contextlib.ExitStack()
        optimizer.register_step_pre_hook(lambda *_: stack.enter_context(self.part(part)) and None)
        optimizer.register_step_post_hook(lambda *_: stack.close())


def profiled(arguments: list[str]) -> Parts:
    """Runs a training with its parts watched."""
    sys.argv[1:] = arguments
    from options.applications import application_on_command_line

    application, parts = application_on_command_line(), Parts()
    config = application.load("train_options")().parse(arguments)
    import torch

    with parts.part("reading the data, before the first step"):
        loaders = application.load("training_loaders")(config)
    trainer = application.load("trainer")(config, *loaders)
    prepare = trainer.prepare

    def prepared(checkpoint: Any = None) -> None:
        with parts.part("building, checks and the first checkpoint"):
            prepare(checkpoint)
        for hook in HOOKS:
            parts.watch(trainer.compression_scheduler, hook, "the scheduler's hooks")
        parts.watch_steps(trainer.optimizer, "optimizer")
        parts.seconds["imports and options"] = time.process_time() - BEGAN - sum(parts.seconds.values())

    trainer.prepare = prepared
    parts.watch_items(trainer, "updates", "minibatches (loader)")
    parts.watch(trainer, "loss_of", "forward pass and loss")
    parts.watch(torch.Tensor, "backward", "backward pass")
    parts.watch(trainer, "validate", "validation")
    parts.watch(trainer, "save", "saving")
    parts.watch(trainer, "finish", "the end: best network measured, summary")
    with parts.part("the rest of the loop: guard, means, logs"):
        trainer.run()
    return parts


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options, others = parser.parse_known_args()
    given = others or ["--optform=SR", "--compress=agp_prune.yaml"]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        parts = profiled([*given, f"--nEpochs={options.epochs}", f"--threads={options.threads}", "--run=profile"])
        os.chdir("/")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    parts.seconds["worker processes"] = used.ru_utime + used.ru_stime
    whole = sum(parts.seconds.values())
    print("\n| part | processor time, s | share |\n|---|---|---|")
    for name, seconds in sorted(parts.seconds.items(), key=lambda each: -each[1]):
        print(f"| {name} | {seconds:.2f} | {seconds / whole:.1%} |")
    print(f"| all, {options.epochs} epochs | {whole:.2f} | |")


if __name__ == "__main__":
    main()
