"""Memory that goes round is never given out while anything uses it."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import Tensor

from opengait.data.transforms import build_transforms
from opengait.data.transforms.draws import Draws
from opengait.data.transforms.recycled import LEAST, Recycled

SHAPE = (2, LEAST // 2)


def filled(memory: Recycled, value: float, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return memory.empty(shape).fill_(value)


def test_what_is_in_use_stays_as_it_is() -> None:
    memory = Recycled()
    kept = [filled(memory, value) for value in range(4)]  # more than there are blocks
    views = [filled(memory, value + 10)[1, 5:9] for value in range(4)]
    array = filled(memory, 20).numpy()
    leaf = torch.ones(SHAPE, requires_grad=True)
    product = leaf * filled(memory, 30)  # kept by the graph alone
    for value in range(3):
        filled(memory, -value)
    product.sum().backward()
    assert [float(one.unique()) for one in kept] == [0, 1, 2, 3]
    assert [float(one.unique()) for one in views] == [10, 11, 12, 13]
    assert (array == 20).all()
    assert float(leaf.grad.unique()) == 30


def test_memory_goes_round() -> None:
    memory = Recycled()
    place = filled(memory, 0).data_ptr()
    assert filled(memory, 1).data_ptr() == place
    held = filled(memory, 2)
    other = filled(memory, 3).data_ptr()
    assert (held.data_ptr(), filled(memory, 4).data_ptr()) == (place, other)
    smaller = filled(memory, 5, (LEAST,))
    assert smaller.shape == (LEAST,)
    larger = filled(memory, 6, (3 * LEAST,))
    assert larger.shape == (3 * LEAST,)
    assert float(held.unique()) == 2


def test_copies_have_memory_of_their_own() -> None:
    memory = Recycled()
    one = filled(memory, 1)
    place = one.data_ptr()
    del one
    for other in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        assert filled(other, 2).data_ptr() != place


def test_batches_that_are_kept_keep_their_frames() -> None:
    [transform] = build_transforms([{"type": "BaseSilCuttingTransform"}]).transforms
    torch.manual_seed(0)
    raw = [torch.randint(256, (1, 120, 64, 64), dtype=torch.uint8) for _ in range(4)]
    draws = Draws(0, 0, torch.zeros(1, dtype=torch.int64), "cpu")
    inputs = [transform(frames, draws) for frames in raw]
    for frames, found in zip(raw, inputs, strict=True):
        torch.testing.assert_close(found, frames[..., 10:-10].float() / 255.0, rtol=0, atol=0)
