"""Schedules: YAML or a dict -> `CompressionScheduler`. `file_config` and `dict_config` are the entry points."""

from compress.config.build import dict_config, file_config

__all__ = ["dict_config", "file_config"]
