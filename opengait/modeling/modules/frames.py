"""Frames folded into the batch, and pooling over the frames of each sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

FRAMES_AT_ONCE = 48
"""Frames that go through a block together on a CPU. Between two layers they still lie in its caches; memory between the
layers stays small, too, however long a sequence is."""


class SetBlockWrapper(nn.Module):
    """Runs a block on every frame of every sequence; keys `forward_block.*`.

    On a GPU all frames go together, and on a CPU where a batch norm has to see them all.

    Args:
        forward_block: any callable on [N, c, h, w] that keeps the first axis.
    """

    def __init__(self, forward_block: Callable[..., Tensor]) -> None:
        super().__init__()
        self.forward_block = forward_block

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[n, c, s, h, w] -> [n, c', s, ...]; a view where the layout in memory allows it."""
        n, _, s = x.shape[:3]
        folded = x.transpose(1, 2).flatten(0, 1)
        if folded.ndim != 4 or folded.device.type != "cpu" or _has_training_batch_norm(self.forward_block):
            y = self.forward_block(folded, *args, **kwargs)
        else:
            laid = folded.contiguous() if _has_narrow_shortcut(self.forward_block) else _channels_last(folded)
            portions = laid.split(FRAMES_AT_ONCE)
            y = torch.cat([self.forward_block(portion, *args, **kwargs) for portion in portions])
        return y.unflatten(0, (n, s)).transpose(1, 2)


def _channels_last(x: Tensor) -> Tensor:
    """[N, c, h, w] in the layout in memory that a CPU convolves fastest, twice as fast for GaitSet's blocks.

    Later blocks keep it by themselves. Weights stay as they are, so that checkpoints hold plain contiguous tensors.

    Not for batch norms that learn: in this layout torch adds up a CPU batch's statistics one float32 after the other,
    which leaves three digits at 100,000 pixels a channel.
    """
    if x.shape[1] == 1:  # both layouts at once: only the stride says which one a convolution takes
        return x.squeeze(1).contiguous().unsqueeze(-1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def _has_narrow_shortcut(block: Callable[..., Tensor]) -> bool:
    """A 1x1 convolution of stride 2 and fewer than 8 channels.

    Its backward pass in channels last writes beyond its memory on CPUs with AVX2 (seen with torch 2.14).
    """
    modules = block.modules() if isinstance(block, nn.Module) else ()
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    return any(one.in_channels < 8 and one.kernel_size == (1, 1) and one.stride != (1, 1) for one in convolutions)


def _has_training_batch_norm(block: Callable[..., Tensor]) -> bool:
    modules = block.modules() if isinstance(block, nn.Module) else ()
    return any(module.training for module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm))


class Pooled(NamedTuple):
    """What a maximum over frames returns; indices are not kept."""

    values: Tensor


class PackSequenceWrapper(nn.Module):
    """Pools over the frames of each sequence, also where sequences of several lengths lie end to end in one row.

    `torch.max` is done for all sequences at once; any other function is called on one sequence after the other, unless
    it has an attribute `takes_lengths` that is true: then it is called once, with `seqL` as its second argument.

    Args:
        pooling_func: a function or module; key prefix `pooling_func.` if it is a module.
    """

    def __init__(self, pooling_func: Callable[..., Any]) -> None:
        super().__init__()
        self.pooling_func = pooling_func

    def forward(self, seqs: Tensor, seqL: Tensor | None, dim: int = 2, options: Mapping[str, Any] | None = None) -> Any:
        """[n, c, s, ...], or packed [1, c, sum of lengths, ...] -> what the function gives, n rows.

        A function that returns a tuple gives a list of its members, those of all sequences joined. `torch.max` over
        `dim` gives one member, the values.

        Raises:
            ValueError: packed sequences in more than one row, or lengths that do not add up to the frames.
        """
        options = dict(options or {})
        if self.pooling_func is torch.max and options == {"dim": dim}:
            return Pooled(frame_max(seqs, seqL, dim))
        if getattr(self.pooling_func, "takes_lengths", False):
            return self.pooling_func(seqs, seqL, **options)
        if seqL is None:
            return self.pooling_func(seqs, **options)
        lengths = checked_lengths(seqs, seqL, dim)
        pooled = [self.pooling_func(run, **options) for run in seqs.split(lengths.tolist(), dim)]
        if isinstance(pooled[0], tuple):
            return [torch.cat(members) for members in zip(*pooled, strict=True)]
        return torch.cat(pooled)


def frame_max(x: Tensor, seqL: Tensor | None = None, dim: int = 2) -> Tensor:
    """Maximum over the frames of each sequence: [n, c, s, ...] or packed [1, c, sum of lengths, ...] -> [n, c, ...].

    The gradient goes to one frame, the one that `torch.max` names. Where frames tie it does not matter which: equal
    values come from equal pixels, so the layers before see the same gradient. Backgrounds tie all the time.

    Raises:
        ValueError: packed sequences in more than one row, or lengths that do not add up to the frames.
    """
    # The other axes in the order in which they lie in memory: flattening them is a view, and the reduction then runs
    # over long contiguous rows whichever layout the convolutions left.
    others = sorted((axis for axis in range(1, x.ndim) if axis != dim), key=x.stride, reverse=True)
    sizes = [x.shape[axis] for axis in others]
    rows = x.permute(0, dim, *others).flatten(2)
    if seqL is None:
        needs_grad = torch.is_grad_enabled() and x.requires_grad
        values = rows.max(1).values if needs_grad else rows.amax(1)  # amax is ten times faster, its gradient slower
    else:
        lengths = checked_lengths(x, seqL, dim)
        values = _SegmentMax.apply(rows[0], lengths)
    back = [1 + others.index(axis) for axis in range(1, x.ndim) if axis != dim]
    return values.unflatten(1, sizes).permute(0, *back)


def checked_lengths(x: Tensor, seqL: Tensor, dim: int = 2) -> Tensor:
    """Lengths int64 [n] on the device of `x`, whose axis `dim` they cut.

    Raises:
        ValueError: packed sequences in more than one row; where that costs no synchronisation also lengths that do not
            add up to the frames.
    """
    lengths = torch.as_tensor(seqL).reshape(-1).long()
    if x.shape[0] != 1:
        raise ValueError(
            f"packed sequences lie in one row, found {x.shape[0]} rows; for rows of one length pass seqL=None"
        )
    if lengths.device.type == "cpu" and (int(lengths.sum()) != x.shape[dim] or int(lengths.min()) < 1):
        raise ValueError(f"seqL {lengths.tolist()} does not cut {x.shape[dim]} frames into sequences of at least one")
    return lengths.to(x.device, non_blocking=True)


class _SegmentMax(torch.autograd.Function):
    """Maximum of each run of rows: x [S, m], lengths [n] -> [n, m]; gradient to the first row that reaches it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lengths: Tensor) -> Tensor:
        frames, m = x.shape
        sequences = torch.arange(len(lengths), device=x.device)
        sequence_of = sequences.repeat_interleave(lengths, output_size=frames)
        index = sequence_of[:, None].expand(-1, m)
        values = x.new_full((len(lengths), m), float("-inf")).scatter_reduce_(0, index, x, "amax")
        if ctx.needs_input_grad[0]:
            position = torch.arange(frames, dtype=torch.int32, device=x.device)[:, None]
            reaches = torch.where(x == values[sequence_of], position, frames - 1)
            first = torch.full_like(values, frames - 1, dtype=torch.int32).scatter_reduce_(0, index, reaches, "amin")
            ctx.save_for_backward(first.long())
            ctx.frames = frames
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (first,) = ctx.saved_tensors
        return grad.new_zeros(ctx.frames, grad.shape[1]).scatter_(0, first, grad), None
