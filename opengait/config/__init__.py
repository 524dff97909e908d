"""YAML -> merged, typed, checked config; every mistake is reported with file, line and the nearest valid name."""

from opengait.config.load import load_config
from opengait.config.problems import ConfigError, ConfigProblem
from opengait.config.tree import Config

__all__ = ["Config", "ConfigError", "ConfigProblem", "load_config"]
