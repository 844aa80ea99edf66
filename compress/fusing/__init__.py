"""Blocks of several branches that one layer can replace: found, replaced, proved, and what is carried over."""
