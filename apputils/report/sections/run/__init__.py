"""Sections about the run: training, schedule, quality, goals, warnings."""
