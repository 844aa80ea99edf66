"""Runtimes that a network may be deployed in: one file each behind the protocol of base.py, measured side by side."""
