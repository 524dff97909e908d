"""Result tables: conditions down, probe views across, their mean at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table as RichTable


@dataclass(frozen=True)
class Table:
    """One measure in percent.

    Attributes:
        title: what is counted, "Rank-1 by probe view".
        columns: probe views, or measures where views play no part.
        rows: for each condition its name, one value a column (None: nothing there to count), and their mean (None where
            columns are different measures).
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...], float | None], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return asdict(self)

    def cells(self) -> list[list[str]]:
        """All as text, the heading row first."""
        with_mean = any(mean is not None for _, _, mean in self.rows)
        lines = [["", *self.columns, *(["mean"] if with_mean else [])]]
        for name, values, mean in self.rows:
            shown = [*values, mean] if with_mean else values
            lines.append([name, *("-" if value is None else f"{value:.2f}" for value in shown)])
        return lines


def rich_table(table: Table) -> RichTable:
    """For a rich console."""
    heading, *rows = table.cells()
    rendered = RichTable(title=table.title, box=box.SIMPLE_HEAD, title_justify="left")
    for position, column in enumerate(heading):
        rendered.add_column(column, justify="left" if position == 0 else "right", no_wrap=True)
    for row in rows:
        rendered.add_row(*row)
    return rendered


def text_lines(table: Table) -> list[str]:
    """For a log file: the title, then aligned columns."""
    cells = table.cells()
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return [table.title, *(_aligned(row, widths) for row in cells)]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()
