"""ONNX files: exported, checked, compared with the network, rewritten for integer kernels."""
