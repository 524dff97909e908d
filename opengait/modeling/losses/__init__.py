"""Losses, and their weighted sum."""

from opengait.modeling.losses.aggregator import LossAggregator
from opengait.modeling.losses.base import BaseLoss

__all__ = ["BaseLoss", "LossAggregator"]
