"""A raw folder in memory, for readers to be tried on."""

from __future__ import annotations

from collections.abc import Mapping


class MemoryFolder:
    """File name -> content."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)

    def names(self) -> list[str]:
        return sorted(self.files)

    def size(self, name: str) -> int:
        return len(self.files[name])

    def read(self, name: str) -> bytes:
        return self.files[name]
