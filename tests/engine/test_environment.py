"""The process's settings."""

import platform
import subprocess
import sys

import pytest

PAGES = """
import resource, torch
from engine.environment import keep_freed_memory
kept = keep_freed_memory() if {keep} else False
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
asked = []
for _ in range(24):
    before = faults()
    torch.ones(10 * 2**20).mul(2)  # two blocks of 40 MB
    asked.append(faults() - before)
print(kept, min(asked[12:]))  # the first ones settle, and the system may take pages back from one of the others
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_not_asked_for_again() -> None:
    pages = {}
    for keep in (False, True):
        command = [sys.executable, "-c", PAGES.format(keep=keep)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert said[0] == str(keep)
        pages[keep] = int(said[1])
    assert pages[True] < 0.01 * pages[False]
