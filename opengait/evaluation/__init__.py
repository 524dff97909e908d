"""Protocols, distances and rankings: from embeddings to figures. Sees arrays and names of sequences only."""

from opengait.evaluation.result import Evaluation, FiguresBeside
from opengait.evaluation.runner import eval_funcs, evaluate, run_protocol
from opengait.evaluation.tables import Table, rich_table, text_lines

__all__ = ["Evaluation", "FiguresBeside", "Table", "eval_funcs", "evaluate", "rich_table", "run_protocol", "text_lines"]
