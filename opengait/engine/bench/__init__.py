"""What an iteration costs on this machine, part by part, and what would make it cheaper: `opengait bench`."""

from opengait.engine.bench.ceilings import Ceilings
from opengait.engine.bench.run import DEMO, Bench, Speed, bench, bench_models

__all__ = ["DEMO", "Bench", "Ceilings", "Speed", "bench", "bench_models"]
