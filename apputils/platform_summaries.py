"""The front of the analyses: what a compressed network is like, each as one call that writes files and returns data.

Names only. Called by the testers and the notebooks, and open to any network of a user's own. Every
`dummy_input` gives shape and type only.
"""

from compress.analysis.drawing.network import draw_model_to_file
from compress.analysis.macs.display import macs_display
from compress.analysis.sensitivity.analysis import sensitivity_analysis
from compress.analysis.sparsity.display import sparsity_display
from compress.export.onnx.export import transform_to_onnx

__all__ = ["draw_model_to_file", "macs_display", "sensitivity_analysis", "sparsity_display", "transform_to_onnx"]
