"""Backbones that networks name in `backbone_cfg`."""
