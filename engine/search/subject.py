"""The dense network of a search: its run, the trainers of candidates, and what a candidate costs before training."""

import contextlib
import copy
import dataclasses
import json
import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apputils.checkpoints.file import load_checkpoint
from apputils.checkpoints.schema import check_run
from apputils.runs.folders import Run
from compress.analysis.latency_model.build import REFERENCE, measure_latency_model
from compress.analysis.latency_model.carried import inputs_of
from compress.analysis.latency_model.layers import Layer, layers_of, without
from compress.analysis.latency_model.model import LatencyModel
from compress.analysis.macs.layers import macs_table
from compress.calibration.batch_norm import reestimate_batch_norm
from compress.errors import UserError
from compress.export.exported_model import describing
from compress.export.machine_load import OthersLoad, load_text
from compress.goals.goal import LATENCY, Goal
from compress.graph.channels import ChannelGraph
from compress.pruning.network_wide.second_order import lowest
from compress.thinning.cost import parameter_count, weight_macs_left
from compress.thinning.removal_plan import plan_recipe
from compress.thinning.trials.trial import prunable_graph
from engine.commands.export import seen_inputs
from engine.goals.training import metrics_of
from engine.saved.load_model import load_network
from engine.saved.rebuild import rebuild
from engine.search.candidate import INT8, SECOND_ORDER, Candidate, Group, gone
from engine.search.screen import quiet
from engine.search.second_order import SecondOrder, filter_dims
from engine.trainer import BaseTrainer
from options.applications import Application, find_application
from options.command import schedule_command

logger = logging.getLogger("search")
MODEL = "latency_model.json"  # in the study's folder
CALIBRATION = 2  # minibatches that ranges of 8 bits are estimated with
STATISTICS = 8  # minibatches that BatchNorm's statistics are estimated anew with
ENOUGH = 128  # samples that say what a unit is worth
LEAST = 0.1  # of a group's channels, the narrowest width that is tried
MOST_CHOICES = 12  # widths of a group
SLACK = 0.03  # predictions err
UNSURE = 0.1  # typical error of a latency model that was measured beside too much other work
HALF_A_BYTE = 0.5  # that a weight of 4 bits saves beside one of 8
SCHEDULE = 1300  # bytes of a candidate's schedule, and of what it pruned, in what its file says of its run


@dataclasses.dataclass(frozen=True)
class Subject:
    """The dense run that candidates start from.

    Attributes:
        run: its name.
        threads: of training and of the measured runtime.
        device: to train on.
        seed: of every candidate's run.
        folder: of the study.
        elsewhere: whether times are those of another machine, whose latency model is in the study's folder.
        runtime: that the latency model is measured in, here.
    """

    run: str
    threads: int
    device: str
    seed: int
    folder: Path
    elsewhere: bool = False
    runtime: str = REFERENCE

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """Of the dense run's best network.

        Raises:
            UserError: it is thinned or quantized.
        """
        found = check_run(load_checkpoint(Run(self.run).best), Run(self.run).best)
        if found["scheduler"]["recipes"] or found["scheduler"].get("structures"):
            raise UserError(
                f"the run {self.run} is not dense: its network is thinned or quantized; nothing was started"
            )
        return found

    @cached_property
    def application(self) -> Application:
        """Of the dense run."""
        return find_application(self.checkpoint["optform"])

    def words(self, *arguments: str) -> list[str]:
        """The dense run's training options as words of a command line, with others in their place."""
        words = shlex.split(schedule_command(self.checkpoint["optform"], self.checkpoint["options"]))[2:]
        own = [f"--seed={self.seed}", f"--device={self.device}", f"--threads={self.threads}", *arguments]
        replaced = {"--start-from", *(word.partition("=")[0] for word in own)}
        return [*(word for word in words if word.partition("=")[0] not in replaced), *own]

    def config(self, *arguments: str) -> Any:
        """The options of `words`, parsed."""
        return self.application.load("train_options")().parse(self.words(*arguments))

    @cached_property
    def loaders(self) -> tuple[Any, Any]:
        """Of the dense run's data."""
        found: tuple[Any, Any] = self.application.load("training_loaders")(self.config())
        return found

    def trainer(self, config: Any) -> BaseTrainer:
        """A trainer on the dense run's data."""
        made: BaseTrainer = self.application.load("trainer")(config, *self.loaders)
        return made

    @cached_property
    def network(self) -> nn.Module:
        """The dense network, on the CPU."""
        return load_network(Run(self.run).best).cpu()

    @cached_property
    def _measurer(self) -> BaseTrainer:
        trainer = self.trainer(self.config(f"--start-from={self.run}"))
        trainer.build()
        return trainer

    @cached_property
    def dense(self) -> tuple[dict[str, float], tuple[Tensor, ...]]:
        """Its quality on the validation data, and the first input there, on the CPU."""
        trainer = self._measurer
        with seen_inputs(trainer.model) as inputs:
            model = rebuild(trainer.model, self.checkpoint).eval()
            quality = metrics_of(trainer, model)
        return quality, inputs[0]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Of one forward pass: a validation input, for which time is predicted and measured."""
        return self.dense[1]

    @property
    def metric(self) -> tuple[str, bool]:
        """The metric that chooses, and whether more of it is better."""
        return self._measurer.quality, self._measurer.higher_is_better

    @property
    def logits(self) -> bool:
        """Whether the output is a set of logits."""
        return self._measurer.gives_logits

    @cached_property
    def graph(self) -> ChannelGraph:
        """Coupled channels of the dense network."""
        return prunable_graph(self.network, self.inputs)

    @cached_property
    def latency(self) -> LatencyModel:
        """The latency model, from the study's folder, of an earlier study of this network, or measured."""
        path = self.folder / MODEL
        if self.elsewhere:
            found = LatencyModel.load(path, here=False)
            found.check_is_of(layers_of(self.network, inputs_of(found)))
            logger.info("times are predicted for %s, measured %s", found.origin["processor"], found.origin.get("date"))
            return found
        if path.is_file():
            return LatencyModel.load(path)
        if earlier := self._of_earlier_study():
            earlier.save(path)
            return earlier
        logger.info("measuring a latency model of the network in %s, %d thread(s)", self.runtime, self.threads)
        began = time.monotonic()
        with quiet(), OthersLoad() as others:
            found = measure_latency_model(
                self.network, self.inputs, runtime=self.runtime, threads=self.threads, graph=self.graph
            )
        found.save(path)
        seconds, load = time.monotonic() - began, load_text(others.cores)
        logger.info("the dense file takes %.4g ms; measured in %.0f seconds; %s", found.dense_ms, seconds, load)
        if found.typical_error > UNSURE:
            logger.warning(
                "the latency model is off by %.0f%% on whole files (median): candidates that exceed a goal by less are "
                "trained too. Measured beside less other work it is better: remove %s and search again",
                100 * found.typical_error, path,
            )  # fmt: skip
        return found

    def _of_earlier_study(self) -> LatencyModel | None:
        """The newest good latency model of this network, runtime and machine among the other studies."""
        for path in sorted(self.folder.parent.glob(f"*/{MODEL}"), key=lambda each: each.stat().st_mtime, reverse=True):
            with contextlib.suppress(UserError):
                found = LatencyModel.load(path)
                found.check_is_of(layers_of(self.network, self.inputs))
                own = (found.origin["runtime"], found.origin["threads"]) == (self.runtime, self.threads)
                if own and found.typical_error <= UNSURE and found.is_well_founded:
                    logger.info(
                        "the latency model is that of the study %s, of the same network, runtime and machine; "
                        "remove %s to measure a new one", path.parent.name, path,
                    )  # fmt: skip
                    return found
        return None

    @property
    def clock(self) -> str:
        """The runtime whose times are predicted."""
        return str(self.latency.origin["runtime"])

    def groups(self, precision: str) -> list[Group]:
        """Groups that may get narrower, with the widths that are worth having in a precision."""
        steps = self.latency.steps(self.graph, precision == INT8)
        found = []
        for group in self.graph.groups(prunable_only=True):
            weights = tuple(self._filters(group.members))
            least = max(1, round(LEAST * group.units), group.units - group.prunable)
            widths = [each for each in steps[group.name][0] if least <= each < group.units]
            # Every k-th, k rounded up, so that at most MOST_CHOICES are left.
            widths = widths[:: -(-len(widths) // MOST_CHOICES)] if widths else []
            if weights and widths:
                found.append(Group(group.name, group.units, (*widths, group.units), weights, steps[group.name][1]))
        return found

    def _filters(self, members: Mapping[tuple[str, int], Any]) -> list[str]:
        """The weights whose filters are the group's units: layers that are not depthwise."""
        return sorted(name for name, dim in members if self._filter_dims.get(name) == dim)

    @cached_property
    def _filter_dims(self) -> dict[str, int]:
        return filter_dims(self.network)

    def weight_names(self) -> list[str]:
        """Of all parameters."""
        return [name for name, _ in self.network.named_parameters()]

    def scores(
        self, groups: Sequence[Group], criterion: str = "L1", network: nn.Module | None = None
    ) -> dict[str, list[float]]:
        """Importance of each unit: its filters' norm over the layer's mean; the mean over the group's layers.

        Args:
            groups: of the dense network.
            criterion: which norm.
            network: whose weights; None is the dense run's.
        """
        parameters = dict((network or self.network).named_parameters())
        # "L1" -> 1, "L2" -> 2: the keys of CRITERIA.
        order, dims = int(criterion[1]), self._filter_dims
        found = {}
        for group in groups:
            rows = [
                parameters[name].detach().movedim(dims[name], 0).flatten(1).norm(order, 1) for name in group.weights
            ]
            fitting = [row / row.mean() for row in rows if len(row) == group.units]
            found[group.name] = torch.stack(fitting or [torch.ones(group.units)]).mean(0).tolist()
        return found

    @cached_property
    def second_order(self) -> SecondOrder:
        """What its units are worth, by second order."""
        return SecondOrder(self.network, self.graph, self.samples)

    @cached_property
    def samples(self) -> list[Tensor]:
        """Inputs of the minibatches that second-order criteria look at, on the CPU."""
        found: list[Tensor] = []
        for batch in islice(self._measurer.training_loader, STATISTICS):
            found += [batch[0].cpu()] if sum(map(len, found)) < ENOUGH else []
        return found

    def importance(self, groups: Sequence[Group], criterion: str) -> dict[str, list[float]]:
        """Of each unit, in one measure for all groups."""
        norms = self.scores(groups)
        return self.second_order.importance(norms) if criterion == SECOND_ORDER else norms

    def counts(self, groups: Sequence[Group], widths: Mapping[str, int]) -> dict[str, float]:
        """Parameters and MACs at some widths, counted without building the network; MACs of layers with weights."""
        removed = {group.name: list(range(group.units - widths.get(group.name, group.units))) for group in groups}
        left = weight_macs_left(self.graph, self.network, removed) / weight_macs_left(self.graph, self.network, {})
        return {"params": parameter_count(self.graph, self.network, removed), "macs": left * self._dense_macs}

    def weights_at(self, groups: Sequence[Group], widths: Mapping[str, int]) -> dict[str, float]:
        """Layer -> elements of its weights at some widths, counted without building the network."""
        removed = {group.name: list(range(group.units - widths.get(group.name, group.units))) for group in groups}
        layers, whole = self.latency.layers, _weights(self.network)
        left = {each.name: _elements(each) for each in without(layers, self.graph, removed)}
        return {each.name: whole[each.name] * left[each.name] / _elements(each) for each in layers}

    @cached_property
    def _dense_macs(self) -> float:
        return float(macs_table(self.network, self.inputs).total["macs"])

    def before_training(
        self, candidate: Candidate, groups: Sequence[Group], network: nn.Module | None = None
    ) -> nn.Module:
        """A candidate's network thinned without training, in float.

        By norms statistics of BatchNorm are estimated anew, by second order they move with what is repaired. Nothing is
        proved here: the candidate's run does that when it thins.

        Args:
            candidate: its widths and criterion count.
            groups: of the dense network.
            network: with the dense network's channels; None is the dense run's.
        """
        if candidate.criterion == SECOND_ORDER:
            made = self.second_order if network is None else SecondOrder(network.cpu(), self.graph, self.samples)
            return made.thinned(gone(groups, candidate.widths), self.scores(groups, network=network)).eval()
        network = self.thinned(groups, candidate.widths, candidate.criterion, network)
        trainer = self._measurer
        batches = (batch[0].to(trainer.device) for batch in islice(trainer.training_loader, STATISTICS))
        reestimate_batch_norm(network.to(trainer.device), batches)
        return network.eval()

    def thinned(
        self,
        groups: Sequence[Group],
        widths: Mapping[str, int],
        criterion: str = "L1",
        network: nn.Module | None = None,
    ) -> nn.Module:
        """A copy of the dense network, or of one of the same channels, without the units of the least norms."""
        network = copy.deepcopy(network or self.network)
        scores = {name: torch.tensor(each) for name, each in self.scores(groups, criterion, network).items()}
        return plan_recipe(network, self.graph, lowest(scores, gone(groups, widths))).apply(network)

    def quality(self, network: nn.Module) -> float:
        """The metric that chooses, on the validation data."""
        return metrics_of(self._measurer, network)[self.metric[0]]

    @cached_property
    def calibration(self) -> list[Tensor]:
        """Inputs of some training minibatches, on the CPU."""
        return [batch[0].cpu() for batch in islice(self._measurer.training_loader, CALIBRATION)]

    def costs(self, network: nn.Module, candidate: Candidate) -> dict[str, float]:
        """Latency as a share of the dense float network's, and what goals count, of a float network that was thinned.

        Time and bytes are predicted; weights of 4 bits are computed in float.
        """
        network = network.cpu().eval()
        int8 = candidate.precision == INT8
        total = macs_table(network, self.inputs).total
        params = sum(each.numel() for each in network.parameters())
        layers = layers_of(network, inputs_of(self.latency) if self.elsewhere else self.inputs)
        in_float = {*candidate.float_layers, *candidate.narrow}
        time = self.latency.time(layers, {each.name for each in layers} - in_float if int8 else False)
        return {
            LATENCY: time / self.latency.time(self.latency.layers), "params": params, "macs": total["macs"],
            "peak_activation_bytes": total["peak_activation_bytes"],
            "file_bytes": self.file_bytes(params, candidate, _weights(network)),
        }  # fmt: skip

    def file_bytes(self, params: float, candidate: Candidate, weights: Mapping[str, float]) -> float:
        """Weights, what the dense network's file has beside them, and what a goal's file says of its run.

        Args:
            params: of the thinned network.
            candidate: its precisions count, not its widths.
            weights: layer -> elements of its weights as it was thinned.
        """
        int8 = candidate.precision == INT8
        width = 1 if int8 else 4
        whole = [each for each in self.latency.anchors if each["share"] == 1 and (each["precision"] == INT8) == int8]
        beside = max((each["bytes"] - width * each["params"] for each in whole), default=0) + self._described
        wider = 3 * sum(weights[each] for each in candidate.float_layers)
        return width * params + beside + wider - HALF_A_BYTE * sum(weights[each] for each in candidate.narrow)

    @cached_property
    def _described(self) -> int:
        """Bytes of what a candidate's file says of its run: the dense run's and a schedule."""
        return len(json.dumps(describing(self.checkpoint))) + SCHEDULE

    def slack(self, goal: Goal) -> float:
        """By how much, as a share of its bound, a predicted cost may exceed it and still be worth training."""
        return max(SLACK, self.latency.typical_error) if goal.metric == LATENCY else SLACK

    def violations(self, goals: Sequence[Goal], costs: Mapping[str, float]) -> dict[str, float]:
        """Goal -> by how much, as a share of its bound, a predicted cost exceeds it; <= 0 meets it."""
        return {str(goal): costs[goal.metric] / goal.bound - 1 for goal in goals if goal.metric in costs}


def _weights(network: nn.Module) -> dict[str, float]:
    """Layer -> elements of its weights, without those of its biases."""
    found: dict[str, float] = {}
    for name, each in network.named_parameters():
        if each.dim() > 1:
            layer = name.rpartition(".")[0]
            found[layer] = found.get(layer, 0.0) + each.numel()
    return found


def _elements(layer: Layer) -> int:
    """In proportion to a layer's weight: a depthwise one has no other inputs."""
    return layer.channels_out * (layer.channels_in if layer.kind.groups else 1)
