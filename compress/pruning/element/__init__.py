"""Pruners of single weights."""
