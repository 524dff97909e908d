"""Several transforms in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from opengait.data.transforms.base import Probability, Transform
from opengait.data.transforms.build import build_transform
from opengait.data.transforms.draws import Draws
from opengait.data.transforms.parts import RandomPartBlur, RandomPartDilate
from opengait.data.transforms.random_changes import RandomHorizontalFlip
from opengait.data.transforms.silhouette import BaseSilCuttingTransform
from opengait.data.transforms.warps import Compat, RandomAffine, RandomPerspective


class Compose(Transform):
    """Applies transforms in their order; each has draws of its own.

    Those up to the last one that works on arrays are applied by the loader's workers, the rest on the device.

    Args:
        trf_cfg: mappings with `type` and arguments, null for none.
    """

    def __init__(self, trf_cfg: Sequence[Mapping[str, Any] | None]) -> None:
        self.steps = [build_transform(entry, f"trf_cfg[{number}]") for number, entry in enumerate(trf_cfg)]

    def __call__(self, frames: Tensor, draws: Draws) -> Tensor:
        return self.finish(self.begin(frames, draws), draws)

    def begin(self, frames: Tensor, draws: Draws) -> Tensor:
        """The steps for the loader's workers."""
        return self.run(0, self._for_workers(), frames, draws)

    def finish(self, frames: Tensor, draws: Draws) -> Tensor:
        """The steps for the device."""
        return self.run(self._for_workers(), len(self.steps), frames, draws)

    def run(self, start: int, end: int, frames: Tensor, draws: Draws) -> Tensor:
        """The steps from `start` up to `end`."""
        for number in range(start, end):
            frames = self.steps[number](frames, draws.within(str(number)))
        return frames

    def _for_workers(self) -> int:
        """Steps up to the last one on arrays, a chain in a chain counting as one."""
        return max((number + 1 for number, step in enumerate(self.steps) if works_on_arrays(step)), default=0)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        for step in self.steps:
            height, width = step.output_size(height, width)
        return height, width


def works_on_arrays(transform: Transform) -> bool:
    """Whether a transform, or a step of it, is a function on arrays."""
    if isinstance(transform, Compose):
        return any(works_on_arrays(step) for step in transform.steps)
    return not transform.on_device


def first_cut(transform: Transform) -> BaseSilCuttingTransform | None:
    """The cut that a transform begins with, if no step of it works on arrays: columns that are thrown away need not
    travel from the loader's workers to the device."""
    if isinstance(transform, Compose):
        return first_cut(transform.steps[0]) if transform.steps and not works_on_arrays(transform) else None
    # A class made of it may do something else with whole frames.
    return transform if type(transform) is BaseSilCuttingTransform else None


def after_cut(transform: Transform, frames: Tensor, draws: Draws) -> Tensor:
    """What a transform makes of frames that its first cut was applied to."""
    if isinstance(transform, Compose):
        frames = after_cut(transform.steps[0], frames, draws.within("0"))
        return transform.run(1, len(transform.steps), frames, draws)
    if not isinstance(transform, BaseSilCuttingTransform):
        raise TypeError(f"{type(transform).__name__} does not begin with a cut")
    return transform.scale(frames)


class DA4GaitSSB(Compose):
    """The augmentation of GaitSSB: affine, perspective, side cut, flip, dilation and blur of a part, in this order.

    Each sequence of a batch draws for itself, and so do the two views of BilateralSampler.
    Source: Fan et al., TPAMI 2023 (arXiv 2206.13964).

    Args:
        cutting: columns to cut at each side, as for BaseSilCuttingTransform; 0 for frames 44 wide.
        ra_prob, rp_prob, rhf_prob, rpd_prob, rpb_prob: probabilities of affine, perspective, flip, dilation, blur.
        top_range, bot_range: rows between which dilation and blur take place.
        compat: of RandomAffine.
    """

    def __init__(
        self,
        cutting: int | None = None,
        ra_prob: Probability = 0.2,
        rp_prob: Probability = 0.2,
        rhf_prob: Probability = 0.5,
        rpd_prob: Probability = 0.2,
        rpb_prob: Probability = 0.2,
        top_range: tuple[int, int] = (9, 20),
        bot_range: tuple[int, int] = (39, 50),
        compat: Compat = None,
    ) -> None:
        super().__init__([])
        self.steps = [
            RandomAffine(ra_prob, compat=compat),
            RandomPerspective(rp_prob),
            BaseSilCuttingTransform(cutting=cutting),
            RandomHorizontalFlip(rhf_prob),
            RandomPartDilate(rpd_prob, top_range, bot_range),
            RandomPartBlur(rpb_prob, top_range, bot_range),
        ]
