"""Which charts a report has, made of its content.

The choice of series and labels.
"""

from collections.abc import Mapping
from typing import Any

from apputils.report.svg import Chart, bar_chart, line_chart, timeline
from apputils.report.timeline import runs_of
from compress.analysis.macs.layers import layer_label
from compress.analysis.metric_names import words_of
from compress.export.timing import RUNTIMES, threads_text

Content = Mapping[str, Any]
MOST_GROUPS = 24
NO_CURVES = frozenset({"epoch", "lr", "sparsity", "images_per_second"})


def schedule_chart(content: Content) -> Chart | None:
    """What acted when; None without a schedule."""
    trained = content["trained_epochs"]
    rows = [
        (p["name"], p["family"].replace("_", " "), runs_of([epoch for epoch in p["epochs"] if epoch < trained]))
        for p in content["policies"]
    ]
    if not rows:
        return None
    return timeline(_schedule_title(content), rows, max(trained, 1))


def _schedule_title(content: Content) -> str:
    """Says how much of the schedule the run had, where that is not all of it."""
    trained = content["trained_epochs"]
    asked = max((epoch + 1 for p in content["policies"] for epoch in p["epochs"]), default=0)
    if asked <= trained:
        return "Policies by epoch"
    return f"Policies by epoch: {trained} epochs were trained, and the schedule goes on to epoch {asked - 1}"


def training_charts(content: Content) -> list[Chart]:
    """Losses together, each metric alone, learning rate, sparsity; over epochs counted from 0."""
    history = content["history"]
    if not history:
        return []
    names = list(dict.fromkeys(name for row in history for name in row))
    plain = [name for name in names if name not in NO_CURVES and not name.startswith("sparsity/")]
    losses = [name for name in plain if name.endswith("loss")]
    charts = [_over_epochs("Loss and its components", history, losses, "loss")] if losses else []
    charts += [
        _over_epochs(words_of(name).title, history, [name], words_of(name).heading)
        for name in plain
        if name not in losses
    ]
    charts.append(_over_epochs("Learning rate", history, ["lr"], "learning rate"))
    charts.append(_zeros_chart(history, [name for name in names if name.startswith("sparsity")]))
    return charts


def _zeros_chart(history: list[dict[str, Any]], names: list[str]) -> Chart:
    """Per cent of zeros in each scheduled weight, and in all of them together."""
    rows = [{name: 100 * row[name] for name in names if row.get(name) is not None} for row in history]
    together = {"sparsity": "together"}
    curves = {
        together.get(name, name.removeprefix("sparsity/")): [
            (row["epoch"], zeros[name]) for row, zeros in zip(history, rows, strict=True) if name in zeros
        ]
        for name in names
    }
    return line_chart("Zeros in scheduled weights", curves, "epoch", "zeros, %")


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
    layers = cost_by_layer(content)
    if not layers:
        return []
    macs = [(row["layer"], _known(dense=row["dense MACs"], now=row["MACs now"], **_skipped(row))) for row in layers]
    parameters = [(row["layer"], _known(dense=row["dense parameters"], now=row["parameters now"])) for row in layers]
    parameters = [(layer, values) for layer, values in parameters if any(values.values())]
    return [bar_chart("MACs by layer", macs, "MACs"), bar_chart("Parameters by layer", parameters, "parameters")]


def cost_by_layer(content: Content) -> list[dict[str, Any]]:
    """One row a layer of the dense network or of this one: MACs and parameters, dense and now; None where it is not."""
    if not content["macs"]:
        return []
    now, dense = _by_layer(content["macs"]["layers"]), _by_layer(content["dense"]["layers"])
    rows = []
    for layer in dict.fromkeys([*dense, *now]):
        before, after = dense.get(layer, {}), now.get(layer, {})
        rows.append({
            "layer": layer, "dense MACs": before.get("macs"), "MACs now": after.get("macs"),
            "MACs now, zeros skipped": after.get("effective_macs"),
            "dense parameters": before.get("parameters"), "parameters now": after.get("parameters"),
        })  # fmt: skip
    return rows


def _label(analysis: Mapping[str, Any], weight: str) -> str:
    """A curve's name: the weight, and how many others of its coupled group share it."""
    more = len(analysis.get("members", {}).get(weight, [weight])) - 1
    return f"{weight} +{more}" if more else weight


def sensitivity_charts(content: Content) -> list[Chart]:
    """Each metric over the level, a curve a weight."""
    charts = []
    for analysis in content["sensitivity"]:
        for metric, dense in analysis["dense"].items():
            start = [] if analysis["sense_type"] == "bits" else [(0.0, _value(dense))]  # nothing pruned
            curves = {
                _label(analysis, weight): sorted(
                    {*start, *((row["level"], _value(row["metrics"].get(metric))) for row in rows)}
                )
                for weight, rows in analysis["weights"].items()
            }
            words = words_of(metric)
            title = (
                f"{words.title} when one weight is changed ({analysis['sense_type']}; unchanged: "
                f"{words.value(_value(dense))})"
            )
            x_label = "bits" if analysis["sense_type"] == "bits" else "level (fraction of zeros asked for)"
            charts.append(line_chart(title, curves, x_label, words.heading, height=320))
    return charts


def latency_chart(content: Content) -> Chart | None:
    """Median latency of this network and its files beside the dense network's; None if nothing was timed."""
    if not content["latency"]:
        return None
    rows = [
        (row["name"], _known(**{runtime: row[f"{runtime}_ms"] for runtime in RUNTIMES}))
        for row in content["latency"]["rows"]
    ]
    return bar_chart(f"Latency, {threads_text(content['latency']['threads'])}", rows, "ms")


def importance_charts(content: Content) -> list[Chart]:
    """The importances of each group that lost units, in order, beside the threshold; the first `MOST_GROUPS`."""
    charts = []
    for row in content["reasons"][:MOST_GROUPS]:
        points = importance_points(row)
        series = {
            "removed": [(each["place"], each["removed"]) for each in points if each["removed"] is not None],
            "kept": [(each["place"], each["kept"]) for each in points if each["kept"] is not None],
            "threshold": [(0, row["threshold"]), (row["units"] - 1, row["threshold"])],
        }
        charts.append(line_chart(importance_title(row), series, "units by importance", "importance"))
    return charts


def importance_title(row: Mapping[str, Any]) -> str:
    """What a group's importances are called."""
    return f"{row['group']}, ranked in epoch {row['epoch']}"


def importance_points(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The units of a group, the least important first: place, unit, importance under `removed` or `kept`, threshold."""
    gone = set(row["removed"])
    order = sorted(range(row["units"]), key=lambda unit: row["scores"][unit])
    return [
        {
            "place": place, "unit": unit, "removed": row["scores"][unit] if unit in gone else None,
            "kept": None if unit in gone else row["scores"][unit], "threshold": row["threshold"],
        }
        for place, unit in enumerate(order)
    ]  # fmt: skip


def activation_chart(content: Content) -> Chart | None:
    """Zeros in each layer's outputs."""
    rows = [(row["layer"] or row["kind"], {"zeros": 100 * row["sparsity"]}) for row in content["activations"] or []]
    rows = [row for row in rows if row[1]["zeros"] > 0]
    return bar_chart("Zeros in outputs of layers", rows, "%", most=100.0) if rows else None


def _over_epochs(title: str, history: list[dict[str, Any]], names: list[str], label: str) -> Chart:
    curves = {name: [(row["epoch"], row[name]) for row in history if row.get(name) is not None] for name in names}
    return line_chart(title, curves, "epoch", label)


def _by_layer(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Rows of one layer added up: a layer may be called twice."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        sums = found.setdefault(layer_label(row), {"macs": 0, "parameters": 0, "effective_macs": 0})
        for name in sums:
            sums[name] += row[name]
    return found


def _skipped(row: Mapping[str, Any]) -> dict[str, int | None]:
    """The effective MACs, where they are fewer."""
    now, fewer = row["MACs now"], row["MACs now, zeros skipped"]
    return {"now, zeros skipped": fewer} if now is not None and fewer < now else {}


def _known(**values: Any) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _value(value: Any) -> float:
    """A number out of a record, in which what JSON cannot hold is text such as `nan`."""
    return float("nan") if value is None else float(value)
