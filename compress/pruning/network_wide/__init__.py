"""Pruners that rank groups of the whole network against each other."""
