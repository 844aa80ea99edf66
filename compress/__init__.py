"""Compression as configuration: prune, thin, quantize, distill and export the networks of any PyTorch loop.

    from compress import CompressionScheduler, export_onnx, file_config, thin

The names in `__all__` are the public interface; semantic versioning covers them and nothing else. Each is imported
from its module when it is asked for, so `import compress` imports no torch. Inside the package nothing imports from
here: modules import modules.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.analysis.drawing.network import draw_model_to_file
    from compress.analysis.drawing.plan import draw_plan
    from compress.analysis.macs.display import macs_display
    from compress.analysis.macs.layers import MacsTable, macs_table
    from compress.analysis.sensitivity.analysis import Settings as SensitivitySettings
    from compress.analysis.sensitivity.analysis import sensitivity_analysis
    from compress.analysis.sensitivity.evaluation import Evaluation
    from compress.analysis.sparsity.display import sparsity_display
    from compress.analysis.sparsity.table import SparsityReport, sparsity_report
    from compress.arguments.checked import ArgumentError
    from compress.calibration.generated import generate_inputs
    from compress.config.build import dict_config, file_config
    from compress.config.post_training import load_post_training
    from compress.context import PolicyLoss, StepContext
    from compress.distillation.base import Distiller
    from compress.epoch_window import EpochWindow
    from compress.errors import Fault, ScheduleError, UserError
    from compress.export.latency import Latency, measure_latency, onnx_way, torch_way
    from compress.export.onnx.check import Difference, compare_onnx
    from compress.export.onnx.export import export_onnx, transform_to_onnx
    from compress.export.onnx.export_report import ExportReport, ExportSettings
    from compress.export.pt2 import Pt2Report, export_pt2, load_pt2
    from compress.graph.calls import Call, Unused, declare_unused
    from compress.graph.channels import ChannelGraph, ChannelGroup
    from compress.graph.macs.count import MacsReport, count_macs
    from compress.io.optional import MissingPackageError
    from compress.masks import MaskTable, ParameterMasker
    from compress.plan import Plan
    from compress.policies.base import Policy
    from compress.pruning.base import Pruner
    from compress.pruning.one_shot.prune import OneShot, prune_one_shot
    from compress.pruning.structure import StructurePruner
    from compress.quantization.base import Quantizer
    from compress.quantization.convert import apply as apply_structure
    from compress.quantization.convert import structure_of
    from compress.quantization.post_training.ladder import climb_ladder
    from compress.quantization.post_training.mixed_precision import MixedPrecision
    from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
    from compress.registry import DISTILLERS, LEVELS, LR_SCHEDULERS, PRUNERS, QUANTIZERS, REGULARIZERS
    from compress.regularization.base import Regularizer
    from compress.scheduler import CompressionScheduler
    from compress.thinning.recipe import Recipe
    from compress.thinning.thin import Thinned, remove_units, thin
    from compress.thinning.trials.trial import prunable_graph, prunable_groups

__version__ = "0.2.0"

__all__ = [  # noqa: RUF022 (by subject)
    # schedules
    "CompressionScheduler", "dict_config", "file_config", "Plan", "PolicyLoss",
    # masks
    "MaskTable", "ParameterMasker",
    # coupled channels and thinning
    "Call", "ChannelGraph", "ChannelGroup", "OneShot", "Recipe", "Thinned", "Unused", "declare_unused",
    "prunable_graph", "prunable_groups", "prune_one_shot", "remove_units", "thin",
    # quantization
    "MixedPrecision", "PostTrainLinearQuantizer", "apply_structure", "climb_ladder", "generate_inputs",
    "load_post_training", "structure_of",
    # export
    "Difference", "ExportReport", "ExportSettings", "Latency", "Pt2Report", "compare_onnx", "export_onnx", "export_pt2",
    "load_pt2", "measure_latency", "onnx_way", "torch_way", "transform_to_onnx",
    # analysis
    "Evaluation", "MacsReport", "MacsTable", "SensitivitySettings", "SparsityReport", "count_macs",
    "draw_model_to_file", "draw_plan", "macs_display", "macs_table", "sensitivity_analysis", "sparsity_display",
    "sparsity_report",
    # algorithms and policies of one's own
    "Distiller", "EpochWindow", "Policy", "Pruner", "Quantizer", "Regularizer", "StepContext", "StructurePruner",
    "DISTILLERS", "LEVELS", "LR_SCHEDULERS", "PRUNERS", "QUANTIZERS", "REGULARIZERS",
    # errors
    "ArgumentError", "Fault", "MissingPackageError", "ScheduleError", "UserError",
]  # fmt: skip

_MODULES = {
    "analysis.drawing.network": ("draw_model_to_file",),
    "analysis.drawing.plan": ("draw_plan",),
    "analysis.macs.display": ("macs_display",),
    "analysis.macs.layers": ("MacsTable", "macs_table"),
    "analysis.sensitivity.analysis": ("SensitivitySettings", "sensitivity_analysis"),
    "analysis.sensitivity.evaluation": ("Evaluation",),
    "analysis.sparsity.display": ("sparsity_display",),
    "analysis.sparsity.table": ("SparsityReport", "sparsity_report"),
    "arguments.checked": ("ArgumentError",),
    "calibration.generated": ("generate_inputs",),
    "config.build": ("dict_config", "file_config"),
    "config.post_training": ("load_post_training",),
    "context": ("PolicyLoss", "StepContext"),
    "distillation.base": ("Distiller",),
    "epoch_window": ("EpochWindow",),
    "errors": ("Fault", "ScheduleError", "UserError"),
    "export.latency": ("Latency", "measure_latency", "onnx_way", "torch_way"),
    "export.onnx.check": ("Difference", "compare_onnx"),
    "export.onnx.export": ("export_onnx", "transform_to_onnx"),
    "export.onnx.export_report": ("ExportReport", "ExportSettings"),
    "export.pt2": ("Pt2Report", "export_pt2", "load_pt2"),
    "graph.calls": ("Call", "Unused", "declare_unused"),
    "graph.channels": ("ChannelGraph", "ChannelGroup"),
    "graph.macs.count": ("MacsReport", "count_macs"),
    "io.optional": ("MissingPackageError",),
    "masks": ("MaskTable", "ParameterMasker"),
    "plan": ("Plan",),
    "policies.base": ("Policy",),
    "pruning.base": ("Pruner",),
    "pruning.one_shot.prune": ("OneShot", "prune_one_shot"),
    "pruning.structure": ("StructurePruner",),
    "quantization.base": ("Quantizer",),
    "quantization.convert": ("apply_structure", "structure_of"),
    "quantization.post_training.ladder": ("climb_ladder",),
    "quantization.post_training.mixed_precision": ("MixedPrecision",),
    "quantization.post_training.quantizer": ("PostTrainLinearQuantizer",),
    "registry": ("DISTILLERS", "LEVELS", "LR_SCHEDULERS", "PRUNERS", "QUANTIZERS", "REGULARIZERS"),
    "regularization.base": ("Regularizer",),
    "scheduler": ("CompressionScheduler",),
    "thinning.recipe": ("Recipe",),
    "thinning.thin": ("Thinned", "remove_units", "thin"),
    "thinning.trials.trial": ("prunable_graph", "prunable_groups"),
}
_HOMES = {name: f"compress.{module}" for module, names in _MODULES.items() for name in names}
_RENAMED = {"SensitivitySettings": "Settings", "apply_structure": "apply"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'compress' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), _RENAMED.get(name, name))
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
