"""From a network to the figures of a protocol: embed, rank, show, write."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from opengait.config.compat import COMPAT, REFERENCE, in_use
from opengait.data.batch import Batch
from opengait.data.dataset import GaitDataset
from opengait.data.loader import BatchLoader, test_loader
from opengait.data.transforms import build_transforms
from opengait.engine.checkpoint_files import whole_file
from opengait.engine.distributed import gather_counts, is_main, on_main, rank, world_size
from opengait.engine.exchange import exchange
from opengait.engine.inference import Reduce, Share, default_frames_per_batch, embed, embed_share
from opengait.engine.logs import show_table
from opengait.engine.memory import FrameBudget
from opengait.engine.precision import Precision, precision_name
from opengait.evaluation.memory import DEFAULT_MEMORY, parse_memory
from opengait.evaluation.protocol import find_protocol
from opengait.evaluation.result import Evaluation
from opengait.evaluation.runner import run_protocol
from opengait.evaluation.segmentation import sequence_iou
from opengait.evaluation.tables import rich_table
from opengait.evaluation.verification import verification_lines
from opengait.modeling.base_model import BaseModel

T = TypeVar("T")
logger = logging.getLogger(__name__)


class StoppedTest(Exception):
    """A test that was left because a process was given a signal, of which `number` is the number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number


class Evaluator:
    """The test of a config, for any network and iteration; all processes embed and rank together.

    Args:
        config: resolved config; `evaluator_cfg` decides, also in the middle of training.
        folder: the run's folder; figures are written to `results/` in it.
        device: of this process.
        precision_of: the section that says in which precision to compute; None: `evaluator_cfg`.

    Attributes:
        evaluation: the whole result of the last `run`, on the main process.
        compat: where the config has `compat: reference`; the caller adds what the network was trained with. The
            protocol's name says so.
        trained_on: subjects that the network was trained on, set by the caller where they are known.
        requested_stop: gives the number of a signal that this process was sent, else 0; looked at after every batch.

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
        self.evaluation: Evaluation | None = None
        self.trained_on: Collection[str] | None = None
        self.requested_stop: Callable[[], int] = lambda: 0
        self._loader: BatchLoader | None = None
        self._budget = FrameBudget(self.dataset.name)

    def embed(self, model: nn.Module) -> dict[str, np.ndarray] | None:
        """Features by sequence index, on the main process."""
        return self._embedded(model, embed)

    def _embedded(self, model: nn.Module, how: Callable[..., T]) -> T:
        """What `embed` or `embed_share` gives."""
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
            return how(
                model,
                self._until_stopped(self._loader),
                self.transforms,
                len(self.dataset),
                device=self.device,
                precision=self.precision,
                reduce=self._reduce(),
                budget=self._budget,
            )
        finally:
            self._loader.close()

    def _until_stopped(self, loader: BatchLoader) -> Iterator[Batch]:
        for batch in loader:
            if self.requested_stop():
                return
            yield batch

    def _reduce(self) -> Reduce | None:
        """How features that have a row a frame become rows of sequences; None where the protocol ranks embeddings."""
        cfg = self.cfg
        _, protocol = find_protocol(
            cfg["eval_func"], self.test_name, cfg.get("cross_view_gallery", False), cfg.get("protocol")
        )
        return sequence_iou if protocol.compares_masks else None

    def run(self, model: nn.Module, iteration: int) -> dict[str, float]:
        """Figures in percent by tag, on the main process; empty elsewhere.

        Every process keeps the embeddings of its own sequences: the gallery is ranked where it lies.

        Raises:
            ValueError: embeddings that are not finite (naming sequences), or a protocol the data does not fit.
            StoppedTest: a process was asked to stop before its last batch.
        """
        share = self._embedded(model, embed_share)
        stop = max(number for (number,) in gather_counts([self.requested_stop()]))
        if stop:
            raise StoppedTest(stop)
        evaluation = self._judge(share)
        on_main(lambda: self._tell(evaluation, iteration))
        self.evaluation = evaluation if is_main() else None
        return dict(evaluation.figures) if is_main() else {}

    def _judge(self, share: Share) -> Evaluation:
        self._check_finite(share)
        data_cfg, cfg, dataset = self.config["data_cfg"], self.cfg, self.dataset
        features: Any = share.features
        if list(features) == ["embeddings"]:
            features = features["embeddings"]
        elif not features:  # a process without any sequence takes part in all that is gathered
            features = {"iou": np.zeros((0, 2))} if self._reduce() else np.zeros((0, 1, 1), dtype=np.float32)
        memory = cfg.get("memory")
        evaluation = run_protocol(
            cfg["eval_func"],
            features,
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
            memory=DEFAULT_MEMORY if memory is None else parse_memory(memory),
            protocol_file=cfg.get("protocol"),
            verify=cfg.get("verification", False),
            trained_on=self.trained_on,
            indices=share.indices,
            exchange=exchange(),
        )
        return evaluation.renamed(f"{COMPAT}: {REFERENCE}") if self.compat else evaluation

    def _tell(self, evaluation: Evaluation, iteration: int) -> None:
        for name, figures, tables in evaluation.sections():
            logger.info("%s", name)
            for table in tables:
                show_table(rich_table(table))
            if figures:
                logger.info("%s: %s", name, ", ".join(f"{tag} {value:.2f}" for tag, value in figures.items()))
        for line in verification_lines(evaluation.verification):
            logger.info("%s: %s", evaluation.protocol, line)
        if evaluation.submission is not None:
            logger.info("submission written to %s", evaluation.submission)
        logger.info("figures written to %s", self._write(evaluation, iteration))

    def _check_finite(self, share: Share) -> None:
        bad = np.zeros(len(share.indices), dtype=bool)
        for values in share.features.values():
            bad |= ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        found = np.unique(np.concatenate(exchange().gather(share.indices[bad])))
        if len(found):
            name = ", ".join(sorted(share.features)) or "embeddings"
            shown = ", ".join(self.dataset.name(int(index)) for index in found[:3])
            raise ValueError(f"{name} of {len(found)} of {len(self.dataset)} sequences are not finite: {shown}")

    def _write(self, evaluation: Evaluation, iteration: int) -> Path:
        path = self.folder / "results" / f"{self.test_name}-{self.cfg['save_name']}-{iteration:05d}.json"
        content = {
            "iteration": iteration,
            "test_dataset_name": self.test_name,
            "test_data": self.dataset.fingerprint(),
            "compat": self.compat,
            **evaluation.to_dict(),
        }
        with whole_file(path) as file:
            file.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
        return path
