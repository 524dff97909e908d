"""TensorBoard event files of a run, in `summary/`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from opengait.config.compat import COMPAT, said
from opengait.engine.distributed import is_main
from opengait.engine.hooks.base import Hook
from opengait.evaluation.result import Evaluation
from opengait.modeling.message_manager import NoWriter

if TYPE_CHECKING:
    from opengait.engine.trainer import Step, Trainer

_FRAMES_SHOWN = 32


def open_writer(folder: Path, purge_step: int | None = None) -> Any:
    """A SummaryWriter; TensorBoard is imported only here, where it is used."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "summary"), purge_step=purge_step)


def write_figures(writer: Any, evaluation: Evaluation | None, iteration: int) -> None:
    """Every figure of a test, and as a text of the same tag below `protocol` the full name of its protocol."""
    for tag, value, name in () if evaluation is None else evaluation.named_figures():
        short = tag.removeprefix("scalar/")
        writer.add_scalar(short, value, iteration)
        writer.add_text(f"protocol/{short}", name, iteration)


class TensorBoardHook(Hook):
    """Interval means of the losses, learning rate, throughput, test figures; images only every `image_iter`."""

    def __init__(self, image_iter: int) -> None:
        self.image_iter = image_iter
        self.writer: Any = None

    def start(self, trainer: Trainer) -> None:
        if is_main():
            # Events after the restored iteration belong to a run that was cut off there; its own are there.
            purge_step = trainer.iteration + 1 if trainer.iteration else 0
            self.writer = trainer.model.msg_mgr.writer = open_writer(trainer.folder, purge_step)
            if trainer.compat:
                self.writer.add_text(COMPAT, said(trainer.compat), trainer.iteration)

    def due(self, trainer: Trainer, iteration: int) -> bool:
        return iteration % self.image_iter == 0

    def after_step(self, trainer: Trainer, step: Step) -> None:
        if self.writer is None or not step.counted or not self.due(trainer, trainer.iteration):
            return
        for key, value in step.visual_summary.items():
            if key.startswith("image/"):
                self.writer.add_image(key.removeprefix("image/"), image_grid(value), trainer.iteration)

    def after_log(self, trainer: Trainer, means: dict[str, float], rates: dict[str, float]) -> None:
        if self.writer is None:
            return
        for tag, value in {**means, **rates}.items():
            self.writer.add_scalar(tag, value, trainer.iteration)
        self.writer.flush()

    def after_test(self, trainer: Trainer, evaluation: Evaluation | None) -> None:
        if self.writer is None:
            return
        write_figures(self.writer, evaluation, trainer.iteration)
        self.writer.flush()

    def finish(self, trainer: Trainer) -> None:
        if self.writer is not None:
            self.writer.close()
            trainer.model.msg_mgr.writer = NoWriter()


def image_grid(images: Tensor) -> Tensor:
    """[n, 1 or 3, h, w] -> [3, H, W] in 0..1: the first images, each normalised by itself."""
    from torchvision.utils import make_grid

    shown = images.detach()[:_FRAMES_SHOWN].to("cpu", torch.float32)
    return make_grid(shown, nrow=8, normalize=True, scale_each=True)
