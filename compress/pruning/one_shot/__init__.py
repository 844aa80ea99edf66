"""Whole units leave a trained network at once, without training: curvature, selection, repair."""
