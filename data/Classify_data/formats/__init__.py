"""Formats of classification data sets, one file each."""
