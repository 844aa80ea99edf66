"""Sections about the deployed files."""
