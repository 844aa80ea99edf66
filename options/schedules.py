"""Where `--compress` looks for a schedule, and the families of `--new-schedule`."""

import os
from pathlib import Path

from compress.errors import UserError, did_you_mean

ROOT = Path(__file__).resolve().parent.parent


def schedule_families() -> list[str]:
    """What `--new-schedule` may be; its templates are one file each."""
    return sorted(path.stem for path in (ROOT / "compress" / "config" / "templates").glob("*.yaml"))


def find_schedule(name: str, optform: str) -> str:
    """The file that `--compress` means: as given, then in schedules/<optform>/, then in schedules/.

    Returns:
        its path, relative to the present folder where that is shorter.

    Raises:
        UserError: no such file; what is there is listed.
    """
    folders = (ROOT / "schedules" / optform, ROOT / "schedules")
    for candidate in (Path(name), *(folder / name for folder in folders)):
        if os.path.isfile(candidate):
            return min(str(candidate), os.path.relpath(candidate), key=len)
    if os.path.isdir(name):
        inside = sorted(path.name for path in Path(name).glob("*.y*ml"))
        holds = f"it holds {', '.join(inside[:12])}" if inside else "and there is no schedule in it"
        raise UserError(f"--compress={name}: that is a folder, {holds}; name a file; nothing was started")
    near = (folder for folder in (Path(name).parent, *folders) if os.path.isdir(folder))
    there = sorted({path.name for folder in near for path in folder.glob("*.y*ml")})
    raise UserError(
        f"--compress={name}: no such file here, in schedules/{optform}/ or in schedules/; {did_you_mean(name, there)}; "
        "nothing was started"
    )
