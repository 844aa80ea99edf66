"""Weights and channel groups as text."""
