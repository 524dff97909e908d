"""Training iterations of shipped networks in float64, as one or as one of several processes; also run as a script."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import engine_worker
import torch
from torch import Tensor, nn

from opengait.config import Config
from opengait.engine.trainer import Trainer
from opengait.modeling.inputs import Inputs
from opengait.registry import MODELS

CPU = torch.device("cpu")


def in_float64(name: str) -> str:
    """Registers a network of that name in float64 and without dropout, whose draws depend on who computes what.

    In float32, batches this small differ by more than the laws allow when rows change places.
    """
    base: Any = MODELS.get(name)

    def build_network(self: Any, model_cfg: Any) -> None:
        base.build_network(self, model_cfg)
        self.double()
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0

    def prepare_inputs(self: Any, batch: Any, transforms: Any) -> Inputs:
        inputs = base.prepare_inputs(self, batch, transforms)
        return inputs._replace(ipts=[smaller(one).double() for one in inputs.ipts])

    def check_frame_size(self: Any, height: int, width: int) -> None:
        """The inherited ones try float32 frames."""

    own = {"build_network": build_network, "prepare_inputs": prepare_inputs, "check_frame_size": check_frame_size}
    double = type(f"Double{name}", (base,), own)
    if double.__name__ not in MODELS:
        MODELS.register(double)
    return double.__name__


def smaller(frames: Tensor) -> Tensor:
    """Every fourth pixel of images of 128x128, for time's sake."""
    return frames[..., ::4, ::4] if frames.shape[-2:] == (128, 128) else frames


def step(tree: dict[str, Any], output: str) -> dict[str, Any]:
    """One iteration of a resolved config: gradients, weights and buffers after it, what the losses have to show."""
    model_cfg = {**tree["model_cfg"], "model": in_float64(tree["model_cfg"]["model"])}
    trainer = Trainer(Config.from_dict({**tree, "model_cfg": model_cfg}), Path(output), device=CPU)
    batches = trainer.batches()
    done = trainer.train_step(next(batches))
    batches.close()
    trainer.log_hook.means.add(done.info)
    return {
        "counted": done.counted,
        "gradients": {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None},
        "weights": trainer.model.state_dict(),
        "info": trainer.log_hook.means.read(trainer.shares),
        "shares": trainer.shares,
    }


if __name__ == "__main__":
    engine_worker.JOBS["recipe"] = step
    engine_worker.main(Path(sys.argv[1]))
