"""A dataset folder -> batches of raw frames; nothing here knows of models."""
