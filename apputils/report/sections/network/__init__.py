"""Sections about the network: its layers, its sizes, what was removed."""
