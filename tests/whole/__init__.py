"""Whole commands and behaviour that no single module has."""
