"""The file beside made pairs that says which photographs they were made of, and how.

`PairsIndex`, its names, reading and writing.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from compress.errors import UserError, printable
from compress.io.files import read_bytes, write_text

FILE = "pairs.json"


@dataclass(frozen=True)
class PairsIndex:
    """What pairs in a folder were made of.

    Attributes:
        length: longest way of the camera, pixels.
        seed: of the blur.
        names: printable file name of a photograph -> what the names of its pairs begin with.
    """

    length: float
    seed: int
    names: dict[str, str] = field(default_factory=dict)

    def with_names(self, files: Iterable[str]) -> "PairsIndex":
        """The same, with names for files that have none yet: `a` for a.png, then `a_jpg` for a.jpg, `a_jpg_2`, ..."""
        names, taken = dict(self.names), set(self.names.values())
        for file in map(printable, files):
            if file not in names:
                stem, ending = os.path.splitext(file)
                name = stem if stem not in taken else f"{stem}_{ending[1:]}"
                number = 1
                while name in taken:
                    number += 1
                    name = f"{stem}_{ending[1:]}_{number}"
                names[file] = name
                taken.add(name)
        return PairsIndex(self.length, self.seed, names)

    def groups(self) -> dict[str, str]:
        """What the names of pairs begin with -> the photograph that these pairs show."""
        return {name: file for file, name in self.names.items()}


def read_index(folder: Path) -> PairsIndex | None:
    """The index of a folder of pairs, None if it has none.

    Raises:
        UserError: it cannot be read.
    """
    path = folder / FILE
    try:
        return TypeAdapter(PairsIndex).validate_python(json.loads(read_bytes(path)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(
            f"{path} is not what make_pairs wrote, so which pairs show the same photograph is not known: "
            f"{str(e).splitlines()[0]}. Make the pairs again, or remove the file if each shows another photograph"
        ) from e


def write_index(folder: Path, index: PairsIndex) -> None:
    """Writes the index, whole or not at all."""
    write_text(folder / FILE, json.dumps(asdict(index), indent=1))
