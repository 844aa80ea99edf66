"""Compression as configuration: schedules, pruning, masks, learning-rate policies for any PyTorch loop.

Entry points: `compress.config.file_config` builds a `compress.scheduler.CompressionScheduler`
from a YAML schedule. This package root imports nothing, so that leaf modules stay cheap.
"""
