"""Loaders: images in, tensors out.

Where images come from, how pairs are made of them, and in which order they are seen. Called by the solvers in
`models/` and by the entry points.
"""
