"""Training: `Trainer.fit()` is the algorithm, `Trainer.train_step()` one iteration; all else is a hook."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opengait.config.compat import REFERENCE, in_use, said
from opengait.data.batch import Batch
from opengait.data.dataset import GaitDataset
from opengait.data.loader import train_loader
from opengait.data.transforms import build_transforms
from opengait.engine import hooks
from opengait.engine.accumulation import Accumulation, check_accumulation, no_targets
from opengait.engine.ahead import CudaLane, one_ahead
from opengait.engine.checkpoint import FORMAT
from opengait.engine.class_shards import ClassShards, check_elementwise
from opengait.engine.deferred import KeptBuffers, deferrable, steps
from opengait.engine.distributed import (
    GatheredLoss,
    gather_counts,
    gather_targets,
    is_main,
    rank,
    world_size,
    wrap_network,
)
from opengait.engine.memory import training_advice
from opengait.engine.optimizer import build_optimizer, build_scheduler
from opengait.engine.precision import Precision, precision_name
from opengait.engine.preflight import check_training
from opengait.engine.randomness import rng_states, seed_everything, seed_iteration, use_deterministic_algorithms
from opengait.engine.resident import keep_resident
from opengait.engine.restore import restore
from opengait.engine.run_folder import config_tree, write_config
from opengait.engine.sharded_loss import ShardedLoss
from opengait.engine.sync_batchnorm import convert_sync_batchnorm, fix_batchnorm, unsynchronised_batchnorm
from opengait.engine.trained_with import network_frames
from opengait.modeling.build import build_model
from opengait.modeling.losses import LossAggregator

logger = logging.getLogger(__name__)


@dataclass
class Step:
    """One batch that went through the network.

    Attributes:
        info, visual_summary: what the losses and the model have to show, on the device.
        flags: [2], on the device: whether loss or gradients are not finite, and the signal to stop; of all processes.
        bad: the loss or a gradient was not finite (on any process).
        counted: the weights were changed.
        overflow: fp16: a gradient was too large for the scale of the loss, which is smaller from now on.
        data_seconds: time that the loop waited for the batch.
    """

    batch: Batch
    loss: Tensor
    info: Mapping[str, Tensor]
    visual_summary: Mapping[str, Tensor]
    flags: Tensor
    bad: bool = False
    counted: bool = False
    overflow: bool = False
    data_seconds: float = 0.0


@dataclass
class TrainResult:
    """What a run leaves behind.

    Attributes:
        iteration: counted iterations.
        folder: the run's folder.
        checkpoint: the newest checkpoint of this process's run.
        figures: of the last test in training, on the main process.
        stop_signal: number of the signal that ended the run early, else 0.
    """

    iteration: int
    folder: Path
    checkpoint: Path | None = None
    figures: dict[str, float] = field(default_factory=dict)
    stop_signal: int = 0


class Trainer:
    """Trains the network of a config, as one of any number of processes.

    Attributes:
        waiting: opens a `with` block in which the host waits for what other processes send; set by the caller.
        iteration: counted iterations, those that changed the weights.
        draws: batches taken; larger than `iteration` by the skipped ones. Batch and augmentation depend on it.
        as_reference: `trainer_cfg.compat: reference`, the reference implementation's faults of the training loop.
        compat: every place of such faults, in this config and in those of the checkpoints that it starts from.
        requested_stop: signal that this process was given; `stop_signal` is what all have agreed on.
        defers: the host learns one batch later whether a step counted (`opengait.engine.deferred`).

    Args:
        config: resolved config with all sections.
        folder: the run's folder.
        device: of this process.
        resume: 'auto' goes on from the newest whole checkpoint in the folder; 'no' starts as `restore_hint` says.

    Raises:
        ValueError: the config does not fit the data, the network or the checkpoint.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path, *, device: torch.device, resume: str = "no") -> None:
        self.config, self.folder, self.device = config, folder, device
        self.cfg = cfg = config["trainer_cfg"]
        self.save_name, self.total_iter, self.seed = cfg["save_name"], cfg["total_iter"], cfg.get("seed", 0)
        self.as_reference = cfg.get("compat") == REFERENCE
        self.compat = in_use(config)
        self.iteration = self.draws = 0
        self.requested_stop = self.stop_signal = 0
        self.figures: dict[str, float] = {}
        self.test_seconds = 0.0
        self.last_checkpoint: Path | None = None
        self.waiting: Callable[[], AbstractContextManager[None]] = nullcontext
        self.shares: list[int] = []
        self.shards: ClassShards | None = None
        self.kept, self._spare = KeptBuffers(), KeptBuffers()

        if cfg.get("deterministic"):
            use_deterministic_algorithms(device)
        seed_everything(self.seed)  # the same on every process, hence the same network
        self.dataset = GaitDataset(config["data_cfg"], training=True)
        self.transforms = build_transforms(cfg["transform"])
        self.model = build_model(config["model_cfg"], training=True, data_cfg=config["data_cfg"], config=config).to(
            device
        )
        self.model.save_path = str(folder)
        check_training(config, self.dataset, self.transforms, self.model)
        self.precision = Precision(
            precision_name(cfg, device),
            device,
            training=True,
            clip_grad_norm=cfg.get("clip_grad_norm"),
            growth_skips=self.as_reference,
        )
        self.optimizer = build_optimizer(config["optimizer_cfg"], self.model)
        if cfg.get("shard_classes"):
            check_elementwise(self.optimizer)
        self.scheduler = build_scheduler(config["scheduler_cfg"], self.optimizer, self.model)
        self._gathered: list[GatheredLoss] = []
        self.losses = LossAggregator(config["loss_cfg"], wrap=self._gather, ignore_unfed=self.as_reference).to(device)

        self.log_hook = hooks.LogHook(cfg["log_iter"])
        self.hooks: list[hooks.Hook] = [
            hooks.NonFiniteHook(cfg.get("max_bad_steps", 10)),
            self.log_hook,
            hooks.TensorBoardHook(cfg.get("image_iter") or 10 * cfg["log_iter"]),
            hooks.CheckpointHook(cfg["save_iter"], cfg.get("keep_last"), cfg.get("keep_every"), cfg.get("keep_best")),
            hooks.SignalHook(),
        ]
        if cfg.get("with_test"):
            self.hooks.append(hooks.EvaluationHook(cfg["save_iter"]))
        self.frames = None if self.model.transforms_itself else network_frames(self.dataset, self.transforms)
        restore(self, resume)
        self.accumulation: Accumulation | None = None
        self.network = self._distribute()
        self.defers = device.type == "cuda" and deferrable(self)
        self.resident = keep_resident(config["data_cfg"], self.dataset, self.transforms, self.model, device)

    def fit(self) -> TrainResult:
        """Trains until `total_iter` counted iterations, or until a signal asks to stop."""
        try:
            self.call("start")
            results = steps(self, self.batches())
            while self.iteration < self.total_iter and not self.stop_signal:
                with training_advice(self.cfg, self.device, lambda: self.iteration, self.resident_bytes):
                    step = next(results)
                self.draws = step.batch.iteration + 1  # of this step, also where the next batch has been taken
                self.call("after_step", step)
        finally:
            self.call("finish")
        return TrainResult(self.iteration, self.folder, self.last_checkpoint, self.figures, self.stop_signal)

    def train_step(self, batch: Batch) -> Step:
        """Forward, losses, backward, step; nothing is changed where the loss or a gradient is not finite."""
        step = self.begin(batch)
        self.finish(step)
        return step

    def begin(self, batch: Batch, ahead: bool = False) -> Step:
        """Forward, losses and backward; on a GPU the host waits for none of them.

        Args:
            ahead: the outcome of the iteration before is not known yet; it is taken for one that counts.
        """
        seed_iteration(self.seed, batch.iteration)
        self.draws = batch.iteration + 1
        self.model.iteration = self.iteration + ahead
        self.model.before_iteration(self.optimizer)
        if ahead:
            self.kept, self._spare = self._spare, self.kept
        self.kept.remember(self.model)
        self.optimizer.zero_grad(set_to_none=True)
        loss, info, summary = self._gradients(batch)
        info = {**info, **{key: value.detach() for key, value in summary.items() if key.startswith("scalar/")}}
        return Step(batch, loss.detach(), info, summary, self._flags(loss))

    def finish(self, step: Step) -> None:
        """Takes the step, once it is known that no process has a loss or gradient that is not finite."""
        with self.waiting():
            bad, stop = step.flags.tolist()
        step.bad, self.stop_signal = bool(bad), int(stop) if world_size() > 1 else self.requested_stop
        if step.bad:
            self.kept.put_back(self.model)
        elif self.precision.step(self.optimizer):
            self.count(step)
        else:
            step.overflow = self.precision.overflowed

    def count(self, step: Step) -> None:
        """The weights were changed."""
        step.counted = True
        self.iteration += 1
        self.scheduler.step()

    def _gradients(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]:
        """The gradients of a batch, in the parameters; its loss, and what losses and network have to show."""
        if self.accumulation is not None:
            return self.accumulation(batch, self.network)
        output = self._forward(batch)
        loss, info = self.losses(output["training_feat"])
        self.precision.backward(loss)
        return loss, info, output.get("visual_summary") or {}

    def _forward(self, batch: Batch) -> Mapping[str, Any]:
        inputs = self.model.prepare_inputs(batch.to(self.device), self.transforms)
        with self.precision.autocast():
            return self.network(inputs)

    def batches(self) -> Iterator[Batch]:
        """This process's batches from the next draw on, without end; all of the same number of sequences. Those for a
        GPU are on their way there while it computes the one before."""
        batches = self._read()
        return one_ahead(batches, CudaLane(self.device)) if self.device.type == "cuda" else batches

    def _read(self) -> Generator[Batch, None, None]:
        """The batches as the loader or the resident data give them."""
        resident = self.resident
        loader = train_loader(
            self.dataset if resident is None else resident.rows,
            self.cfg["sampler"],
            seed=self.seed,
            rank=rank(),
            world_size=world_size(),
            num_workers=self.config["data_cfg"].get("num_workers", 0),
            start_iteration=self.draws,
            pin_memory=self.device.type == "cuda",
            # Of resident frames there are none that work on arrays.
            transforms=None if self.model.transforms_itself or resident else self.transforms,
        )
        try:
            for batch in loader:
                if not self.shares:
                    self.shares = [count for (count,) in gather_counts([len(batch.labels)])]
                    for loss in self._gathered:
                        loss.shares = self.shares
                yield batch if resident is None else resident.batch(batch)
        finally:
            loader.close()

    @property
    def resident_bytes(self) -> int:
        """Of the data set in the device's memory."""
        return self.resident.bytes if self.resident is not None else 0

    def call(self, event: str, *arguments: Any) -> None:
        """Calls every hook's method of that name, in order."""
        for hook in self.hooks:
            getattr(hook, event)(self, *arguments)

    def sequence_name(self, index: int) -> str:
        """What a message calls a training sequence."""
        return self.dataset.name(index)

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint's contents, on the main process; needs all processes."""
        model, optimizer = self.model.state_dict(), self.optimizer.state_dict()
        if self.shards is not None:
            model, optimizer = self.shards.whole_model(model), self.shards.whole_optimizer(optimizer)
        return {
            "format": FORMAT,
            "model": model,
            "optimizer": optimizer,
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.precision.state_dict(),
            "iteration": self.iteration,
            "draws": self.draws,
            "interval": self.log_hook.means.state_dict(),
            "rng": rng_states(self.device),
            "world_size": world_size(),
            "config": config_tree(self.config),
            "compat": list(self.compat),
            "labels": list(self.dataset.label_set),
            "data_fingerprint": self.dataset.fingerprint(),
            "frames": self.frames,
        }

    def _distribute(self) -> nn.Module:
        """Synchronised or frozen batch norm, spread classes, wrapped for several processes, compiled: what `train_step`
        calls."""
        if world_size() > 1:
            self.model.gather_targets = gather_targets
        if self.cfg.get("sync_BN"):
            self.model = convert_sync_batchnorm(self.model)
        if self.cfg.get("fix_BN"):
            fix_batchnorm(self.model)
        if self.cfg.get("accumulate", 1) > 1:
            check_accumulation(self.model, self.cfg)
            self.model.gather_targets = no_targets
            self.accumulation = Accumulation(
                self.cfg["accumulate"], self.model, self._forward, self.losses, self.precision.backward
            )
        split = unsynchronised_batchnorm(self.model)
        if split and world_size() > 1:
            logger.warning(
                "sync_BN is off: %d batch norms see only the sequences of their own process, "
                "so results depend on the number of processes",
                len(split),
            )
        if is_main():
            logger.info("%.5f million parameters", sum(p.numel() for p in self.model.parameters()) / 1e6)
            text = write_config(self.folder, "config.yaml", self.config)
            logger.info("resolved config, saved as %s:\n%s", self.folder / "config.yaml", text)
            if self.compat:
                logger.info("%s", said(self.compat))
        if self.cfg.get("shard_classes") and world_size() > 1:
            self.shards = self.precision.shards = ClassShards(self.model, self.optimizer)
        network = wrap_network(
            self.model,
            self.device,
            # Else gradients are summed in other groups after the first iteration of a start than in it, and sums over
            # more than two processes are rounded otherwise where a run was resumed.
            find_unused_parameters=bool(self.cfg.get("find_unused_parameters") or self.cfg.get("deterministic")),
            sync=not split,
            apart=self.shards.keys if self.shards is not None else (),
        )
        return torch.compile(network) if self.cfg.get("compile") else network  # type: ignore[return-value]

    def _gather(self, loss: nn.Module) -> GatheredLoss:
        self._gathered.append(ShardedLoss(loss) if self.cfg.get("shard_classes") else GatheredLoss(loss))
        return self._gathered[-1]

    def _flags(self, loss: Tensor) -> Tensor:
        """[2]: whether any process has a loss or gradient that is not finite, and the signal to stop.

        The one message between processes of an iteration beside the gradients.
        """
        bad = self.precision.non_finite(loss, self.optimizer).float()
        flags = torch.stack([bad, torch.full_like(bad, self.requested_stop)])
        if world_size() > 1:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        return flags
