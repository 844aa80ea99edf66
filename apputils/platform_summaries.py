"""The front of the analyses: what a compressed network is like, each as one call that writes files and returns data.

Here: names only. Not here: any work; each name says where that is. Called by the testers, the notebooks, and whoever
wants to look at a network of their own. Every `dummy_input` gives shape and type only.
"""

from apputils.draw import draw_model_to_file
from apputils.macs_display import macs_display
from apputils.onnx_export import transform_to_onnx
from apputils.sensitivity.analysis import sensitivity_analysis
from apputils.sparsity_display import sparsity_display

__all__ = ["draw_model_to_file", "macs_display", "sensitivity_analysis", "sparsity_display", "transform_to_onnx"]
