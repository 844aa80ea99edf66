"""Loaders: pictures in, tensors out.

Here: where pictures come from, how pairs are made of them, and in which order they are seen.
Not here: any model, loss or metric. Called by the solvers in `models/` and by the entry points.
"""
