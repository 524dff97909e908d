"""Articulated 3-D walkers rendered to a data set: the embedded default for demo, tests and benchmarks."""

from opengait.synthetic.camera import VIEWS
from opengait.synthetic.contact_sheet import contact_sheet
from opengait.synthetic.sequence import Settings, sequence_facts
from opengait.synthetic.synthesize import GENERATOR_VERSION, TYPES, SynthesisReport, synthesize

__all__ = [
    "GENERATOR_VERSION",
    "TYPES",
    "VIEWS",
    "Settings",
    "SynthesisReport",
    "contact_sheet",
    "sequence_facts",
    "synthesize",
]
