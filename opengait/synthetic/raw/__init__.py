"""Small look-alikes of raw distributions, from the walkers: what every preparation is tested on from end to end."""

from opengait.synthetic.raw.faults import Fault
from opengait.synthetic.raw.write import LAYOUTS, RawReport, write

__all__ = ["LAYOUTS", "Fault", "RawReport", "write"]
