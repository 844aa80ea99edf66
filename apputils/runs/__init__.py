"""Runs and their folders: logs, locks, console, warnings, summary."""
