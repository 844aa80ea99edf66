"""What will act in each epoch, found without training.

`Plan` and `make_plan`, which asks the policies and rehearses the learning-rate policies on a shadow of each
optimizer. Called by `CompressionScheduler.preview`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from tabulate import tabulate
from torch.optim import Optimizer

from compress.graph.channels import ChannelGraph
from compress.policies.base import Policy
from compress.policies.lr import LRPolicy, shadow_of
from compress.policies.overlaps import acting_in
from compress.policies.thinning import ThinningPolicy
from compress.thinning.expected import ExpectedUnits


@dataclass(frozen=True)
class PlanRow:
    """One epoch of a plan.

    Attributes:
        epoch: counted from 0.
        acting: instance names of the policies that fire.
        levels: weight -> fraction of zeros asked for by now (it stays after the policy's end).
        zeros: weight -> the fraction that this comes to, where only whole groups go, and coupled ones together, with
            what other weights' units mask in it; without what has been removed.
        removed: weight -> fraction of it that a thinner has taken out of the network by now, as whole units.
        learning_rates: of each parameter group of the optimizer, when this epoch begins.
        reach: instance name -> number of weights that it acts on, of the policies that fire.
        bits: layer -> its bits in words (`W4 A8`), while the network is quantized.
        other_rates: name of another optimizer of the loop -> its learning rates, like `learning_rates`.
    """

    epoch: int
    acting: tuple[str, ...]
    levels: dict[str, float] = field(default_factory=dict)
    learning_rates: tuple[float, ...] = ()
    reach: dict[str, int] = field(default_factory=dict)
    bits: dict[str, str] = field(default_factory=dict)
    other_rates: dict[str, tuple[float, ...]] = field(default_factory=dict)
    removed: dict[str, float] = field(default_factory=dict)
    zeros: dict[str, float] = field(default_factory=dict)

    def acting_text(self) -> str:
        """The policies that fire, with the number of weights that each acts on."""
        return ", ".join(f"{name} ({self.reach[name]})" if self.reach.get(name) else name for name in self.acting)

    def bits_text(self) -> str:
        """How many layers have which bits: `W4 (6), A8 (5)`; W weight, B bias, A activation."""
        counts = Counter(self.bits.values())
        return ", ".join(f"{words} ({count})" for words, count in counts.items()) or "float"

    def contents(self) -> tuple[object, ...]:
        """What a plan shows of an epoch."""
        return self.acting, self.zeros, self.learning_rates, self.bits, self.other_rates, self.removed


@dataclass(frozen=True)
class Plan:
    """What happens in which epoch; as text, a table of those in which something changes.

    Attributes:
        rows: of all epochs, in order.
        notes: sentences about all of it.
    """

    rows: tuple[PlanRow, ...]
    notes: tuple[str, ...] = ()

    def changes(self) -> list[PlanRow]:
        """The rows in which something differs from the row before."""
        kept: list[PlanRow] = []
        for row in self.rows:
            last = kept[-1] if kept else None
            if last is None or row.contents() != last.contents():
                kept.append(row)
        return kept

    def level_groups(self) -> dict[str, list[float | None]]:
        """Weights that follow the same levels, under one name: `mid_part.1.weight (+3)` -> level of each epoch."""
        return {name: [level for level, _ in curve] for name, curve in self._curves().items()}

    def removed_groups(self) -> dict[str, list[float | None]]:
        """The same names -> the fraction that has left the network by each epoch; None before anything has."""
        return {name: [removed for _, removed in curve] for name, curve in self._curves().items()}

    def _curves(self) -> dict[str, list[tuple[float | None, float | None]]]:
        names = list(dict.fromkeys(name for row in self.rows for name in (*row.zeros, *row.removed)))
        curves: dict[tuple[tuple[float | None, float | None], ...], list[str]] = {}
        for name in names:
            curve = tuple((row.zeros.get(name), row.removed.get(name)) for row in self.rows)
            curves.setdefault(curve, []).append(name)
        return {
            members[0] + (f" (+{len(members) - 1})" if len(members) > 1 else ""): list(curve)
            for curve, members in curves.items()
        }

    def __str__(self) -> str:
        if not self.rows:
            return "no epochs: no policy acts"
        groups, quantizes = self._curves(), any(row.bits for row in self.rows)
        rows = []
        for row in self.changes():
            levels = [_zeros(*curve[row.epoch]) for curve in groups.values()]
            rates = [_rates(each) for each in (row.learning_rates, *row.other_rates.values())]
            bits = [row.bits_text()] if quantizes else []
            rows.append([row.epoch, row.acting_text(), *levels, *bits, *rates])
        zeros, bits = [f"zeros of {name}" for name in groups], ["bits (layers)"] if quantizes else []
        headers = ["epoch", "acting (weights)", *zeros, *bits, "learning rate"]
        headers += [f"learning rate of {name}" for name in self.rows[0].other_rates]
        text = tabulate(rows, headers, disable_numparse=True, maxheadercolwidths=24, maxcolwidths=60)
        by_layer = "".join(f"\n{layer}: {words}" for layer, words in self.rows[-1].bits.items())
        end = f"epochs 0..{len(self.rows) - 1}, counted from 0; those like the one before them are left out"
        return "\n".join([f"{text}\n{end}{by_layer}", *self.notes])


def _rates(rates: tuple[float, ...]) -> str:
    return " ".join(f"{rate:.3g}" for rate in dict.fromkeys(rates))


def _zeros(level: float | None, removed: float | None) -> str:
    """`40.63 %`; `40.63 % removed` once a thinner has taken them out of the network."""
    if removed is not None:
        return f"{100 * removed:.2f} % removed"
    return "" if level is None else f"{100 * level:.2f} %"


def make_plan(
    policies: list[Policy],
    optimizer: Optimizer | None,
    epochs: int,
    others: Mapping[str, Optimizer] | None = None,
    graph: ChannelGraph | None = None,
) -> Plan:
    """Asks every policy what it will do in epochs 0 to `epochs` - 1. Nothing real is touched.

    Args:
        policies: of the schedule.
        optimizer: of the network.
        epochs: the run's length.
        others: further optimizers of the loop by name, such as a discriminator's.
        graph: of the network before the first epoch; without it each weight is counted by itself.
    """
    units = None if graph is None else ExpectedUnits(graph)
    rates = rehearse_learning_rates(policies, optimizer, epochs)
    other_rates = {name: rehearse_learning_rates(policies, each, epochs) for name, each in (others or {}).items()}
    levels: dict[str, float] = {}
    zeros: dict[str, float] = {}
    removed: dict[str, float] = {}
    rows = []
    with_bits = [policy for policy in policies if type(policy).bits is not Policy.bits]
    for epoch, firing in enumerate(acting_in(policies, epochs)):
        for policy in firing:
            expected = policy.expected(epoch)
            levels, zeros = {**levels, **policy.plan(epoch)}, {**zeros, **expected}
            removed = {name: fraction for name, fraction in removed.items() if name not in expected}
            demand = policy.demand(epoch)
            if units is not None and demand is not None:
                units.take(demand)
                # Units of one weight mask columns of another.
                zeros = {**zeros, **{name: units.zeros(name) for name in units.named & zeros.keys()}}
            if isinstance(policy, ThinningPolicy):
                # A thinner takes out what is zero in whole filters or channels
                # by now; from then on it counts as removed, not as zero.
                leaving = {name for other in policies for name in other.removable if zeros.get(name)}
                removed, zeros = _thinned(removed, zeros, leaving, units)
        reach = {policy.name: len(policy.weights) for policy in firing}
        bits = {layer: words for policy in with_bits for layer, words in policy.bits(epoch).items()}
        others_now = {name: each[epoch] for name, each in other_rates.items()}
        names = tuple(policy.name for policy in firing)
        rows.append(PlanRow(epoch, names, levels, rates[epoch], reach, bits, others_now, removed, zeros))
    return Plan(tuple(rows), tuple(note for policy in policies if (note := policy.plan_note())))


def _thinned(
    removed: dict[str, float], zeros: dict[str, float], leaving: set[str], units: ExpectedUnits | None
) -> tuple[dict[str, float], dict[str, float]]:
    """What has been removed and what is zero once a thinner has taken out what can leave."""
    counted = set() if units is None else leaving & units.named
    gone = {name: zeros[name] for name in leaving - counted}
    if units is not None:
        gone.update(units.thin())
    stays = {name: units.zeros(name) for name in counted} if units is not None else {}
    left = {name: fraction for name, fraction in zeros.items() if name not in leaving}
    return {**removed, **gone}, {**left, **{name: fraction for name, fraction in stays.items() if fraction}}


def rehearse_learning_rates(
    policies: list[Policy], optimizer: Optimizer | None, epochs: int
) -> list[tuple[float, ...]]:
    """The learning rates of each epoch, from copies of the policies on a shadow optimizer.

    Policies of other optimizers are left out. `ReduceLROnPlateau` depends on metrics, so its rate stays where it is.
    """
    if optimizer is None:
        return [()] * epochs
    shadow = shadow_of(optimizer)
    copies = [
        policy.on(shadow) for policy in policies if isinstance(policy, LRPolicy) and policy.optimizer is optimizer
    ]
    rates = []
    for epoch, firing in enumerate(acting_in(copies, epochs)):
        for policy in firing:
            policy.begin(epoch)
        rates.append(tuple(float(group["lr"]) for group in shadow.param_groups))
        for policy in firing:
            policy.end(epoch, None)
    return rates
