"""A group of runs that differ in their seed alone: its name, its members, what it was started with.

`SeedGroup`, kept as logs/<group>/group.json; the members are runs called <group>-s<seed>. Imports no torch.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from apputils.runs.folders import GROUP_FILE, Run, check_new_name, is_plain_name
from compress.errors import UserError, shown
from compress.io.files import read_text, write_json

MOST_SEEDS = 1000
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class SeedGroup:
    """Runs of several seeds.

    Attributes:
        name: of the group, one folder name that no run has.
        optform: the application.
        seeds: in the order of training.
        options: of training, as plain data; each member has its own seed and name.
        schedule_text: the schedule's file as it was when the group began; None without one.
    """

    name: str
    optform: str
    seeds: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule_text: str | None = None

    @property
    def folders(self) -> Run:
        """Where the group's own files are: logs/<name>/ and results/<name>/."""
        return Run(self.name)

    @property
    def members(self) -> dict[int, Run]:
        """Seed -> run."""
        return {seed: Run(f"{self.name}-s{seed}") for seed in self.seeds}

    @property
    def begun(self) -> bool:
        """Whether a run of it has begun, so that there is something to resume."""
        return any(run.logs.exists() or run.kept_files() for run in self.members.values())

    def remove(self) -> None:
        """Gives the name back: removes what `write` made."""
        (self.folders.logs / GROUP_FILE).unlink(missing_ok=True)
        with suppress(OSError):  # not empty: of others
            self.folders.logs.rmdir()
            self.folders.logs.parent.rmdir()

    def write(self) -> None:
        """Claims the name and keeps the group.

        Raises:
            UserError: the name is no plain folder name, or it or a member's is taken.
            OSError: it cannot be written.
        """
        for name in (self.name, *(run.name for run in self.members.values())):
            check_new_name(name)
        write_json(self.folders.logs / GROUP_FILE, {**asdict(self), "seeds": list(self.seeds)})


def group_of(name: str | None) -> SeedGroup | None:
    """The group of that name; None where there is none, as with the name of a run.

    Raises:
        UserError: its file is damaged.
    """
    path = Run(name).logs / GROUP_FILE if name and is_plain_name(name) else None
    if path is None or not path.is_file():
        return None
    try:
        content = json.loads(read_text(path))
        seeds = tuple(content["seeds"])
        if content["name"] != name or not all(type(seed) is int and 0 <= seed <= LARGEST_SEED for seed in seeds):
            raise ValueError("it is of another group, or its seeds are none")
        text, options = content["schedule_text"], dict(content["options"])
        if not seeds or len(seeds) > MOST_SEEDS or not isinstance(text, str | None):
            raise ValueError("it has no seeds, or no text of a schedule")
        return SeedGroup(name or "", str(content["optform"]), seeds, options, text)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise UserError(
            f"{path} does not describe a group of seeds ({str(e)[:100]}); its runs can be named one by one"
        ) from e


def seeds_of(text: str) -> tuple[int, ...]:
    """The seeds that `--seeds` means: `5` is 0 to 4, `3,7,11` (or `3,`) is these.

    Raises:
        UserError: it is neither.
    """
    if re.fullmatch(r"\d{1,19}", text) and 2 <= int(text) <= MOST_SEEDS:
        return tuple(range(int(text)))
    if re.fullmatch(r"\d{1,19}(,\d{1,19})*,?", text) and "," in text:
        seeds = tuple(int(each) for each in text.rstrip(",").split(","))
        if len(set(seeds)) == len(seeds) <= MOST_SEEDS and max(seeds) <= LARGEST_SEED:
            return seeds
    raise UserError(
        f"--seeds={shown(text)}: expected a number of seeds from 2 to {MOST_SEEDS}, such as 5 for 0,1,2,3,4, or "
        "different seeds, such as 0,7,12; nothing was started"
    )
