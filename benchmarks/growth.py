"""How the bench's work grows: the manual's page docs/growth.md, from points of scale.py.

python benchmarks/growth.py --measure                  every point: some minutes; then the page
python benchmarks/growth.py --measure thinning chain   these again
python benchmarks/growth.py                            the page alone, from benchmarks/growth.json
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib as mpl
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import scale
from benchmarks.results_page import machine
from compress.export.machine_load import OthersLoad, load_text

ROOT = Path(__file__).resolve().parent.parent
DATA, PAGE = ROOT / "benchmarks" / "growth.json", ROOT / "docs" / "growth.md"
IMAGE = ROOT / "docs" / "images" / "growth.svg"
BEGIN, END = "<!-- growth: made by benchmarks/growth.py -->", "<!-- end -->"
LINEAR = 1.1  # exponents up to here are those of linear growth, within what processor time repeats
LIMIT = 600.0  # seconds of the clock for a point
LEAST = 0.05  # seconds below which a start is more than the work
Row = dict[str, Any]


def measure(points: Sequence[str]) -> list[Row]:
    """Each point at its sizes: seconds of processor time and MB at most; None beyond the limit."""
    found = []
    for point in tqdm(points, unit="point"):
        for size in scale.SIZES[point]:
            with OthersLoad() as others:
                taken = scale.measured(point, size, LIMIT)
            found.append({
                "point": point, "size": size, "seconds": taken.seconds, "mb": taken.mb, "machine": machine(),
                "date": date.today().isoformat(), "load": load_text(others.cores),
            })  # fmt: skip
    return found


def exponent(rows: Sequence[Row]) -> float:
    """Of size, in the seconds of the two largest sizes that are measured: 1 is linear growth.

    The smaller ones hold what is done once, which would flatter it.
    """
    first, last = [row for row in rows if row["seconds"] is not None][-2:]
    return math.log(last["seconds"] / max(first["seconds"], LEAST)) / math.log(last["size"] / first["size"])


def page(rows: Sequence[Row], why: Mapping[str, str]) -> str:
    """The table of the page, one line a point."""
    lines = ["| what | size: seconds, MB at most | exponent | why |", "|---|---|---|---|"]
    for point in scale.SIZES:
        mine = [row for row in rows if row["point"] == point]
        cells = "; ".join(f"{row['size']:,}: {_cost(row)}" for row in mine)
        said = why.get(point, "") or ("linear" if exponent(mine) <= LINEAR else "**not explained**")
        lines.append(f"| {scale.TITLES[point]} | {cells} | {exponent(mine):.2f} | {said} |")
    machines = dict.fromkeys(f"{row['machine']}, {row['date']}" for row in rows)
    quiet = all(row["load"] == load_text(0.0) for row in rows)
    busy = "" if quiet else " Other processes kept the machine busy meanwhile: seconds are up to twice too long."
    return "\n".join([f"Measured on {'; '.join(machines)}.{busy}", "", *lines])


def draw(rows: Sequence[Row], path: Path) -> None:
    """Seconds over size, both logarithmic, a line a point, and what linear growth would be."""
    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "growth"  # the same file from the same numbers
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for point in scale.SIZES:
        mine = [row for row in rows if row["point"] == point and row["seconds"] is not None]
        sizes = [row["size"] / mine[0]["size"] for row in mine]
        axes.loglog(sizes, [row["seconds"] for row in mine], marker="o", label=f"{point} ({exponent(mine):.2f})")
    axes.loglog([1, 1000], [0.02, 20], color="gray", linestyle=":", label="linear")
    axes.set(xlabel="size over the smallest one", ylabel="seconds of processor time")
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def written(text: str, table: str) -> str:
    """A page with the table between its marks."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is asked for, then writes page and image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", nargs="*", metavar="POINT", help=f"of {', '.join(scale.SIZES)}; none: all")
    given = parser.parse_args(arguments).measure
    rows: list[Row] = json.loads(DATA.read_text(encoding="utf-8")) if DATA.is_file() else []
    if given is not None:
        if wrong := set(given) - set(scale.SIZES):
            parser.error(f"unknown point {sorted(wrong)[0]}; points are {', '.join(scale.SIZES)}")
        taken = measure(given or list(scale.SIZES))
        again = {row["point"] for row in taken}
        rows = sorted([row for row in rows if row["point"] not in again] + taken, key=_place)
        DATA.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    draw(rows, IMAGE)
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), page(rows, scale.WHY)), encoding="utf-8")


def _place(row: Row) -> tuple[int, int]:
    return list(scale.SIZES).index(row["point"]), row["size"]


def _cost(row: Row) -> str:
    return f"more than {LIMIT:.0f} s" if row["seconds"] is None else f"{row['seconds']:.2f} s, {row['mb']:.0f} MB"


if __name__ == "__main__":
    main()
