"""What `opengait bench` shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from opengait.engine.bench.advice import advice
from opengait.engine.bench.ceilings import Ceilings
from opengait.engine.bench.iteration import Cost
from opengait.engine.bench.run import Bench, Speed


def parts_table(found: Bench) -> Table:
    """Each part: time, share, rates, and what share of the attainable it reaches."""
    table = Table(title=f"A training iteration of {found.model}, {found.sequences} sequences, {found.frames} frames")
    for name in ("part", "ms", "%", "GFLOP", "GFLOP/s", "MB", "GB/s", "limit", "of it, %"):
        table.add_column(name, justify="left" if name in ("part", "limit") else "right", no_wrap=True)
    total = sum(cost.seconds for cost in found.parts.values())
    for part, cost in found.parts.items():
        shown = f"{1e3 * cost.seconds:.2f}", f"{100 * cost.seconds / total:.1f}"
        table.add_row(part, *shown, *_rates(cost, found.ceilings))
    return table


def lines(found: Bench) -> Iterator[str]:
    """What stands under the table."""
    yield ", ".join(f"{key} {value}" for key, value in found.machine.items())
    yield (
        f"measured ceilings: {found.ceilings.flops / 1e9:.1f} GFLOP/s in float32 products, "
        f"{found.ceilings.bytes / 1e9:.1f} GB/s in copies; bytes are counted as if no cache held them"
    )
    if found.generated:
        yield "data: generated walkers"
    total = sum(cost.seconds for cost in found.parts.values())
    yield (
        f"one after the other: {1e3 * total:.1f} ms, {1e3 * found.whole:.1f} ms by one clock; as training does it with "
        f"{found.workers} workers: {1e3 * found.trained:.1f} ms, of which {1e3 * found.waited:.1f} ms waiting for data"
    )
    yield f"training {found.frames / found.trained:,.0f} frames a second, testing {found.testing:,.0f}"
    slowest = found.parts[found.slowest]
    yield f"slowest: {found.slowest}, {100 * slowest.seconds / total:.0f} % of the time one after the other"
    yield from advice(found)


def speeds_table(speeds: Sequence[Speed]) -> Table:
    """Frames a second of every network."""
    table = Table(title="Frames a second")
    for name in ("network", "million parameters", "training batch", "training", "testing"):
        table.add_column(name, justify="left" if name == "network" else "right", no_wrap=True)
    for one in speeds:
        rates = f"{one.training:,.0f}", f"{one.testing:,.0f}"
        table.add_row(one.model, f"{one.parameters / 1e6:.2f}", one.batch, *rates)
    return table


def _rates(cost: Cost, ceilings: Ceilings) -> tuple[str, ...]:
    if not cost.flops and not cost.bytes:
        return ("",) * 6
    return (
        f"{cost.flops / 1e9:.2f}",
        f"{cost.flops / cost.seconds / 1e9:.1f}",
        f"{cost.bytes / 1e6:.1f}",
        f"{cost.bytes / cost.seconds / 1e9:.1f}",
        ceilings.limit(cost.flops, cost.bytes),
        f"{100 * ceilings.seconds(cost.flops, cost.bytes) / cost.seconds:.0f}",
    )
