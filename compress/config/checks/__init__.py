"""Checks of a schedule, one subject each."""
