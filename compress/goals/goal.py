"""`Goal`: one line of a schedule's section `goals`. Its constructor is the schema of that line.

goals:
  - {metric: latency, at_most: 0.5, runtime: onnxruntime}
  - {metric: psnr, drop_at_most: 0.1}
  - {metric: file_bytes, at_most: 60_000}
  - {metric: latency, at_most: 0.5, device: device.json}    # of another machine
"""

import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

LATENCY, FLOAT_LAYERS = "latency", "float_layers"
COSTS = {  # metric -> what it counts; each is compared with `at_most`
    "file_bytes": "bytes of the exported file",
    "macs": "multiply-accumulates of one forward pass",
    "params": "parameters of the network",
    "peak_activation_bytes": "bytes of inputs and activations alive at once",
    FLOAT_LAYERS: "layers with 8-bit weights that the runtime computes in float",
}
IN_A_RUNTIME = (LATENCY, FLOAT_LAYERS)  # what depends on the program that runs the file
MEASURED = (LATENCY, *COSTS)  # what every network has; any other metric is a quality of the application
BOUNDS = ("at_most", "at_least", "drop_at_most")
DEFAULT_RUNTIME = "onnxruntime"


class Goal:
    """A bound on what is deployed; one of `at_most`, `at_least` and `drop_at_most` is given.

    Args:
        metric: latency, file_bytes, macs, params, peak_activation_bytes, float_layers (of a quantized network), or a
            quality of the application such as psnr.
        at_most: the largest value allowed. Of latency: a fraction of the time of the dense float file, in the same
            runtime and the same rounds, > 0. Of the other costs: a count. Of a quality: in its unit.
        at_least: the smallest value allowed, of a quality.
        drop_at_most: how much worse than the dense network's a quality may be, in its unit, >= 0; a metric of which
            less is better may rise by so much.
        runtime: of latency and float_layers: what runs the file; None is onnxruntime.
        device: of latency: a `device.json` with a layer table, or a `latency_model.json`, of the machine that the time
            is predicted for; None measures the file on this machine.
    """

    def __init__(
        self,
        metric: str,
        at_most: float | None = None,
        at_least: float | None = None,
        drop_at_most: Annotated[float, Field(ge=0)] | None = None,
        runtime: str | None = None,
        device: str | None = None,
    ) -> None:
        self.metric = metric
        self.at_most, self.at_least, self.drop_at_most = at_most, at_least, drop_at_most
        self.runtime = (runtime or DEFAULT_RUNTIME) if metric in IN_A_RUNTIME else runtime
        self.device = device

    @property
    def kind(self) -> str:
        """Which bound is given: `at_most`, `at_least` or `drop_at_most`."""
        return next(name for name in BOUNDS if getattr(self, name) is not None)

    @property
    def bound(self) -> float:
        """The bound's value."""
        return float(getattr(self, self.kind))

    @property
    def is_quality(self) -> bool:
        """Whether the application's data decide it."""
        return self.metric not in MEASURED

    def to_dict(self) -> dict[str, Any]:
        """As a schedule writes it."""
        bound: float = getattr(self, self.kind)
        whole = int(bound) if self.metric in COSTS and bound == int(bound) else bound  # 60000, not 60000.0
        written = {"metric": self.metric, self.kind: whole, "runtime": self.runtime, "device": self.device}
        return {name: value for name, value in written.items() if value is not None}

    def problems(self) -> Iterator[tuple[str, str]]:
        """What does not go together: (argument, what is wrong)."""
        given = [name for name in BOUNDS if getattr(self, name) is not None]
        if len(given) != 1:
            said = f"has {' and '.join(given)}" if given else "has no bound"
            yield "metric", f"the goal {said}; give one of {', '.join(BOUNDS)}"
            return
        if not math.isfinite(self.bound):
            yield self.kind, f"given {self.bound}; a bound is a finite number"
        if not self.is_quality and self.kind != "at_most":
            yield self.kind, f"{self.metric} is a cost, which has an upper bound only; write at_most"
        elif self.metric == LATENCY and self.bound <= 0:
            yield self.kind, f"given {self.bound:g}; a fraction of the dense float file's time is more than 0"
        elif self.metric in COSTS and self.bound < (least := 0 if self.metric == FLOAT_LAYERS else 1):
            what = COSTS[self.metric]
            yield self.kind, f"given {self.bound:g}; {self.metric} counts {what}: a number, {least} or more"
        if self.runtime is not None and self.metric not in IN_A_RUNTIME:
            yield "runtime", f"{self.metric} does not depend on a runtime; only {' and '.join(IN_A_RUNTIME)} take one"

        if self.device is not None and self.metric != LATENCY:
            yield "device", f"{self.metric} is not predicted for a device; only {LATENCY} is"

    def __str__(self) -> str:
        where = f" in {self.runtime}" if self.runtime else ""
        where += f" on the machine of {self.device}" if self.device else ""
        return f"{self.metric}{where} {self.kind.replace('_', ' ')} {number(self.bound)}"


def number(value: float) -> str:
    """`60,000`, `0.5`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
