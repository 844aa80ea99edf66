"""Multiply-accumulates of a traced network."""
