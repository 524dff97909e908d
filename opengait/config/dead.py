"""Keys of the reference implementation's files that nothing reads: one warning each, then dropped."""

from __future__ import annotations

from collections.abc import Mapping

from opengait.config.problems import Report
from opengait.config.source import Node

NOTHING = "nothing reads this key"

DATA = {"frame_threshold": NOTHING, "train_data_preload": NOTHING}
MODEL = {"diffusion_ckpt": NOTHING, "test_da": NOTHING, "eroded_kernel": NOTHING}
ENGINE = {"fix_layers": NOTHING, "enable_distributed": NOTHING}
LOSS = {
    "loss_term_weights": f"{NOTHING} (did you mean 'loss_term_weight'?)",
    "lazy": NOTHING,
    "gather_and_scale": f"{NOTHING}; a loss on pairs sees the whole global batch always",
}
SHUFFLE = {"batch_shuffle": "this sampler does not shuffle a batch"}
SAMPLERS = {"InferenceSampler": SHUFFLE, "CommonSampler": SHUFFLE, "BilateralSampler": SHUFFLE}
TRANSFORMS = {
    "BaseSilCuttingTransform": {"img_w": f"{NOTHING}; the width is that of the frames less twice 'cutting'"},
    "BaseParsingCuttingTransform": {"img_w": f"{NOTHING}; the width is that of the frames less twice 'cutting'"},
    "MirrorPoses": {"probability": f"{NOTHING} (did you mean 'prob'?)"},
    "MSGGTransform": {"prob": f"{NOTHING} (did you mean 'joint_format'?)"},
}


def drop(node: Node, table: Mapping[str, str], place: str, report: Report) -> Node:
    """The mapping without its dead keys, each of them named in a warning."""
    kept = {}
    for key, value in node.value.items():
        if key not in table:
            kept[key] = value
        elif value.layer > 0:  # a default is nothing that anybody wrote
            report.warn(value, f"{place}.{key}", f"has no effect: {table[key]}")
    return Node(kept, node.file, node.line, node.layer)
