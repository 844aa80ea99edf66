"""Modules that quantize: layers, activations, norms, each a twin of a float one."""
