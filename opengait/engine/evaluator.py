"""From a network to the figures of a protocol: embed, rank, show, write."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from opengait.config.compat import COMPAT, REFERENCE, in_use
from opengait.data.dataset import GaitDataset
from opengait.data.loader import BatchLoader, test_loader
from opengait.data.transforms import build_transforms
from opengait.engine.distributed import on_main, rank, world_size
from opengait.engine.inference import Reduce, default_frames_per_batch, embed
from opengait.engine.logs import show_table
from opengait.engine.precision import Precision, precision_name
from opengait.evaluation.protocol import find_protocol
from opengait.evaluation.runner import Evaluation, run_protocol
from opengait.evaluation.segmentation import sequence_iou
from opengait.evaluation.tables import rich_table
from opengait.modeling.base_model import BaseModel

logger = logging.getLogger(__name__)


class Evaluator:
    """The test of a config, for any network and iteration; all processes embed, the first ranks.

    Args:
        config: resolved config; `evaluator_cfg` decides, also in the middle of training.
        folder: the run's folder; figures are written to `results/` in it.
        device: of this process.
        precision_of: the section that says in which precision to compute; None: `evaluator_cfg`.

    Attributes:
        compat: where the config has `compat: reference`; the caller adds what the network was trained with. The
            protocol's name says so.

    Raises:
        ValueError: the test data does not fit the config.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        folder: Path,
        *,
        device: torch.device,
        precision_of: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.cfg = config["evaluator_cfg"]
        self.dataset = GaitDataset(config["data_cfg"], training=False)
        self.transforms = build_transforms(self.cfg["transform"])
        self.precision = Precision(precision_name(precision_of or self.cfg, device), device)
        self.compat = in_use(config)
        self.test_name = config["data_cfg"].get("test_dataset_name") or config["data_cfg"]["dataset_name"]
        self.frames_per_batch = self.cfg.get("frames_per_batch") or default_frames_per_batch(device)
        self._loader: BatchLoader | None = None

    def embed(self, model: nn.Module) -> dict[str, np.ndarray] | None:
        """Features by sequence index, on the main process."""
        if self._loader is None:  # kept, so that tests in the middle of training repeat none of its notices
            self._loader = test_loader(
                self.dataset,
                self.cfg["sampler"],
                frames_per_batch=self.frames_per_batch,
                rank=rank(),
                world_size=world_size(),
                num_workers=self.config["data_cfg"].get("num_workers", 0),
                pin_memory=self.device.type == "cuda",
                transforms=None if getattr(model, "transforms_itself", False) else self.transforms,
                ragged=isinstance(model, BaseModel) and model.tests_ragged(),
            )
        try:
            return embed(
                model,
                self._loader,
                self.transforms,
                len(self.dataset),
                device=self.device,
                precision=self.precision,
                reduce=self._reduce(),
            )
        finally:
            self._loader.close()

    def _reduce(self) -> Reduce | None:
        """How features that have a row a frame become rows of sequences; None where the protocol ranks embeddings."""
        cfg = self.cfg
        _, protocol = find_protocol(
            cfg["eval_func"], self.test_name, cfg.get("cross_view_gallery", False), cfg.get("protocol")
        )
        return sequence_iou if protocol.compares_masks else None

    def run(self, model: nn.Module, iteration: int) -> dict[str, float]:
        """Figures in percent by tag, on the main process; empty elsewhere.

        Raises:
            ValueError: embeddings that are not finite (naming sequences), or a protocol the data does not fit.
        """
        features = self.embed(model)
        return on_main(lambda: self._judge(features or {}, iteration)) or {}

    def _judge(self, features: dict[str, np.ndarray], iteration: int) -> dict[str, float]:
        self._check_finite(features)
        data_cfg, cfg, dataset = self.config["data_cfg"], self.cfg, self.dataset
        evaluation = run_protocol(
            cfg["eval_func"],
            features["embeddings"] if list(features) == ["embeddings"] else features,
            dataset.labels,
            dataset.types,
            dataset.views,
            dataset=self.test_name,
            metric=cfg.get("metric", "euc"),
            cross_view_gallery=cfg.get("cross_view_gallery", False),
            probe_set=dataset.partition.probe,
            gallery_set=dataset.partition.gallery,
            rerank=cfg.get("rerank"),
            remove_no_gallery=data_cfg.get("remove_no_gallery", False),
            out_dir=self.folder / "results",
            device=self.device,
            protocol_file=cfg.get("protocol"),
        )
        if self.compat:
            evaluation = replace(evaluation, protocol=f"{evaluation.protocol}; {COMPAT}: {REFERENCE}")
        logger.info("%s", evaluation.protocol)
        for table in evaluation.tables:
            show_table(rich_table(table))
        if evaluation.figures:
            logger.info(", ".join(f"{tag} {value:.2f}" for tag, value in evaluation.figures.items()))
        if evaluation.submission is not None:
            logger.info("submission written to %s", evaluation.submission)
        logger.info("figures written to %s", self._write(evaluation, iteration))
        return dict(evaluation.figures)

    def _check_finite(self, features: Mapping[str, np.ndarray]) -> None:
        for name, values in features.items():
            finite = np.isfinite(values.reshape(len(values), -1)).all(1)
            if not finite.all():
                bad = np.flatnonzero(~finite)
                shown = ", ".join(self.dataset.name(int(index)) for index in bad[:3])
                raise ValueError(f"{name} of {len(bad)} of {len(values)} sequences are not finite: {shown}")

    def _write(self, evaluation: Evaluation, iteration: int) -> Path:
        path = self.folder / "results" / f"{self.test_name}-{self.cfg['save_name']}-{iteration:05d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "iteration": iteration,
            "test_dataset_name": self.test_name,
            "test_data": self.dataset.fingerprint(),
            "compat": self.compat,
            **evaluation.to_dict(),
        }
        path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return path
