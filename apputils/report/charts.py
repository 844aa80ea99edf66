"""Which charts a report has, made of its content.

Here: the choice of series and labels. Not here: geometry (svg.py), the page (page.py).
"""

from collections.abc import Mapping
from typing import Any

from apputils.report.svg import Chart, bar_chart, line_chart, timeline
from apputils.report.timeline import runs_of

Content = Mapping[str, Any]
MOST_GROUPS = 24
NO_CURVES = frozenset({"epoch", "lr", "sparsity", "images_per_second"})


def schedule_chart(content: Content) -> Chart | None:
    """What acted when; None without a schedule."""
    rows = [(p["name"], p["family"].replace("_", " "), runs_of(p["epochs"])) for p in content["policies"]]
    if not rows:
        return None
    ends = [end for _, _, stretches in rows for _, end in stretches]
    return timeline("Policies by epoch", rows, max([*ends, len(content["history"])]))


def training_charts(content: Content) -> list[Chart]:
    """Losses together, each metric alone, learning rate, sparsity; over epochs counted from 0."""
    history = content["history"]
    if not history:
        return []
    names = list(dict.fromkeys(name for row in history for name in row))
    plain = [name for name in names if name not in NO_CURVES and not name.startswith("sparsity/")]
    losses = [name for name in plain if name.endswith("loss")]
    charts = [_over_epochs("Loss and its components", history, losses, "loss")] if losses else []
    charts += [_over_epochs(name, history, [name], name) for name in plain if name not in losses]
    charts.append(_over_epochs("Learning rate", history, ["lr"], "learning rate"))
    weights = [name for name in names if name.startswith("sparsity")]
    charts.append(_over_epochs("Zeros in scheduled weights", history, weights, "fraction of zeros"))
    return charts


def sparsity_chart(content: Content) -> Chart | None:
    """Zeros of each weight, by element and by the structures of which there are zero ones."""
    if not content["sparsity"]:
        return None
    weights = content["sparsity"]["weights"]
    kinds = {"fine": "elements", "filters": "filters", "channels": "channels", "2D": "kernels"}
    kinds = {key: kind for key, kind in kinds.items() if key == "fine" or any(row[key] for row in weights)}
    rows = [
        (row["weight"], {kind: 100 * row[key] for key, kind in kinds.items() if row[key] is not None})
        for row in weights
    ]
    return bar_chart("Zeros by weight", rows, "%", most=100.0)


def cost_charts(content: Content) -> list[Chart]:
    """MACs and parameters of each layer: dense, now, and with zeros skipped."""
    if not content["macs"]:
        return []
    now = _by_layer(content["macs"]["layers"])
    dense = _by_layer(content["dense"]["layers"])
    macs, parameters = [], []
    for layer in list(dict.fromkeys([*dense, *now])):
        before, after = dense.get(layer, {}), now.get(layer, {})
        macs.append((layer, _known(dense=before.get("macs"), now=after.get("macs"), **_skipped(after))))
        parameters.append((layer, _known(dense=before.get("parameters"), now=after.get("parameters"))))
    parameters = [(layer, values) for layer, values in parameters if any(values.values())]
    return [bar_chart("MACs by layer", macs, "MACs"), bar_chart("Parameters by layer", parameters, "parameters")]


def sensitivity_charts(content: Content) -> list[Chart]:
    """Each metric over the level, a curve a weight."""
    charts = []
    for analysis in content["sensitivity"]:
        for metric, dense in analysis["dense"].items():
            start = [] if analysis["sense_type"] == "bits" else [(0.0, _value(dense))]  # nothing pruned
            curves = {
                weight: sorted({*start, *((row["level"], _value(row["metrics"].get(metric))) for row in rows)})
                for weight, rows in analysis["weights"].items()
            }
            title = f"{metric} when one weight is changed ({analysis['sense_type']}; unchanged: {_value(dense):.4g})"
            x_label = "bits" if analysis["sense_type"] == "bits" else "level (fraction of zeros asked for)"
            charts.append(line_chart(title, curves, x_label, metric, height=320))
    return charts


def latency_charts(content: Content) -> list[Chart]:
    """Median latency of each exported file and what it was timed against."""
    charts = []
    for export in content["export"]:
        rows = [(name, {"median": each["milliseconds"]}) for name, each in (export.get("latency") or {}).items()]
        if rows:
            title = f"Latency, {export['mode']} file and others, {export.get('threads')} threads"
            charts.append(bar_chart(title, rows, "ms"))
    return charts


def importance_charts(content: Content) -> list[Chart]:
    """The importances of each group that lost units, in order, beside the threshold; the first `MOST_GROUPS`."""
    charts = []
    for row in content["reasons"][:MOST_GROUPS]:
        gone = set(row["removed"])
        order = sorted(range(row["units"]), key=lambda unit: row["scores"][unit])
        ranked = [(place, row["scores"][unit], unit in gone) for place, unit in enumerate(order)]
        series = {
            "removed": [(place, score) for place, score, went in ranked if went],
            "kept": [(place, score) for place, score, went in ranked if not went],
            "threshold": [(0, row["threshold"]), (row["units"] - 1, row["threshold"])],
        }
        title = f"{row['group']}, ranked in epoch {row['epoch']}"
        charts.append(line_chart(title, series, "units by importance", "importance"))
    return charts


def activation_chart(content: Content) -> Chart | None:
    """Zeros in each layer's outputs."""
    rows = [(row["layer"] or row["kind"], {"zeros": 100 * row["sparsity"]}) for row in content["activations"] or []]
    rows = [row for row in rows if row[1]["zeros"] > 0]
    return bar_chart("Zeros in outputs of layers", rows, "%", most=100.0) if rows else None


def _over_epochs(title: str, history: list[dict[str, Any]], names: list[str], label: str) -> Chart:
    curves = {
        name.removeprefix("sparsity/"): [(row["epoch"], row[name]) for row in history if row.get(name) is not None]
        for name in names
    }
    return line_chart(title, curves, "epoch", label)


def _by_layer(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Rows of one layer added up: a layer may be called twice."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        sums = found.setdefault(row["layer"] or row["kind"], {"macs": 0, "parameters": 0, "effective_macs": 0})
        for name in sums:
            sums[name] += row[name]
    return found


def _skipped(row: Mapping[str, int]) -> dict[str, int | None]:
    """The effective MACs, where they are fewer."""
    return {"now, zeros skipped": row["effective_macs"]} if row and row["effective_macs"] < row["macs"] else {}


def _known(**values: Any) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _value(value: Any) -> float:
    """A number out of a record, in which what JSON cannot hold is text such as `nan`."""
    return float("nan") if value is None else float(value)
