"""Commented schedules to start from, one for each method family."""
