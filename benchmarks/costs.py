"""What compression costs: the manual's page docs/costs.md, from comparisons in results/.

    python test.py --compare DENSE NETWORK ... --threads=1
    python benchmarks/costs.py "TITLE=results/compare-Classify-.../compare.json"
    python benchmarks/costs.py

The second command puts the numbers of that comparison, under its title, in benchmarks/costs.json (a title that is
there already is replaced) and writes the tables of the page anew; the third only writes them. Every difference is to
the first network of its table, image by image and seed by seed, with its 98 % interval; one whose interval contains
zero is none. Of groups of seeds the same for other seeds on these images is beside it.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apputils.compare.differences import interval_text, over_seeds_text
from compress.analysis.metric_names import words_of

ROOT = Path(__file__).resolve().parent.parent
DATA, PAGE = ROOT / "benchmarks" / "costs.json", ROOT / "docs" / "costs.md"
BEGIN, END = "<!-- costs: made by benchmarks/costs.py -->", "<!-- end -->"
KEPT = ("name", "parameters", "macs", "effective_macs", "sparsity", "file_bytes", "seeds")
OF_DIFFERENCE = ("name", "metric", "mean", "low", "high", "seeds", "images", "finding", "over_seeds")
Content = Mapping[str, Any]


def taken_from(comparison: Content) -> dict[str, Any]:
    """What the page needs of a compare.json."""
    metric = next(iter(comparison["metrics"]))
    rows = [{key: row.get(key) for key in (*KEPT, metric, f"{metric}_deviation")} for row in comparison["rows"]]
    differences = [
        {key: each.get(key) for key in OF_DIFFERENCE} for each in comparison["differences"] if each["metric"] == metric
    ]
    measured = str(comparison["measured_on"]).partition(" (")[0]  # in words; what classes there are is left out
    return {"metric": metric, "measured_on": measured, "rows": rows, "differences": differences}


def table(title: str, content: Content) -> str:
    """One comparison in Markdown."""
    words, than = words_of(content["metric"]), f"than `{content['rows'][0]['name']}`, 98 % interval"
    found = {each["name"]: each for each in content["differences"]}
    lines = [
        f"## {title}",
        "",
        f"Measured on {content['measured_on']}.",
        "",
        f"| network | seeds | {words.heading} | {than} | parameters | MACs | zeros | file |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        cells = [f"`{row['name']}`", str(row["seeds"] or 1), _quality(row, content["metric"])]
        cells += [_difference(found.get(row["name"])), f"{row['parameters']:,}", _macs(row)]
        cells += [f"{100 * row['sparsity']:.0f} %", f"{row['file_bytes']:,}" if row["file_bytes"] else "none"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _quality(row: Content, metric: str) -> str:
    deviation = row[f"{metric}_deviation"]
    spread = "" if deviation is None else f" (deviation {words_of(metric).bare(deviation)})"
    return words_of(metric).bare(row[metric]) + spread


def _macs(row: Content) -> str:
    """With those that read a weight that is not zero, where they are fewer."""
    fewer = row["effective_macs"] < 0.99 * row["macs"]
    return f"{row['macs']:,}" + (f" ({row['effective_macs']:,} not zero)" if fewer else "")


def _difference(found: Content | None) -> str:
    if found is None:
        return "0"
    text = f"{found['finding']} ({interval_text(found)})"
    seeds = over_seeds_text(found)
    return f"{text}; on these images {seeds}" if seeds else text


def page(text: str, tables: Mapping[str, Content]) -> str:
    """The page with its tables made anew."""
    before, rest = text.split(BEGIN)
    after = rest.split(END, 1)[1]
    return "\n\n".join([before + BEGIN, *(table(title, each) for title, each in tables.items()), END + after])


def main(given: Sequence[str]) -> None:
    """Takes comparisons in and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", nargs="*", metavar="TITLE=FILE")
    arguments = parser.parse_args(given).comparisons
    tables = json.loads(DATA.read_text(encoding="utf-8")) if DATA.is_file() else {}
    for argument in arguments:
        title, separator, file = argument.partition("=")
        if not separator or not Path(file).is_file():
            sys.exit(
                f"{argument}: give TITLE=FILE, FILE a compare.json of python test.py --compare; nothing was written"
            )
        tables[title] = taken_from(json.loads(Path(file).read_text(encoding="utf-8")))
    DATA.write_text(json.dumps(tables, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")
    print(f"written: {DATA}, {PAGE}")


if __name__ == "__main__":
    main(sys.argv[1:])
