"""From raw frames to the training layout."""

from opengait.prepare.silhouette import normalize_parsing, normalize_silhouette

__all__ = ["normalize_parsing", "normalize_silhouette"]
