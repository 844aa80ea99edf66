"""Quantized ONNX graphs rewritten into the forms that integer kernels are made for."""
