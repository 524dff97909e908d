"""Supervised contrastive and inter-class losses: published numbers, and equality with loop-written twins."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import close_to_peak, uniform
from torch import Tensor
from torch.nn import functional

from opengait.modeling.losses import LossAggregator
from opengait.modeling.losses.contrastive import SupConLoss_Lp, SupConLoss_Re, anchor_terms, log_sum_of_others
from opengait.modeling.losses.inter_class import (
    InterClassLoss,
    class_uniformity,
    pairwise_contrast,
    weighted_triplets,
)
from opengait.modeling.losses.triplet import TripletLoss

Shared = Callable[[str], Path]
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
GROUPS = pytest.mark.parametrize(
    "labels",
    [[0, 0, 1, 1, 2, 2], [0, 0, 0, 4, 2, 2, 7], [3, 3, 3], [0, 1, 2, 3]],
    ids=["equal", "unequal", "one class", "alone"],
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "loss"),
    [("supcon_re_t0.07", SupConLoss_Re(0.07)), ("supcon_lp_t0.07", SupConLoss_Lp(0.07))],
    ids=["re", "lp"],
)
def test_golden(shared: Shared, name: str, loss: SupConLoss_Re | SupConLoss_Lp) -> None:
    case = np.load(shared(f"golden/losses/{name}.npz"))
    features = torch.from_numpy(case["features"]).requires_grad_()
    value, info = loss(features, torch.from_numpy(case["labels"]))
    close_to_peak(value, case["loss"], "loss")
    close_to_peak(info["loss"], case["loss"], "info")
    value.backward()
    assert features.grad is not None
    close_to_peak(features.grad, case["grad"], "grad")


def test_reference_values() -> None:
    pairs = functional.normalize(torch.from_numpy(2 * uniform((8, 2, 6)) - 1).float(), dim=-1)
    assert float(SupConLoss_Re()(pairs, LABELS)[0]) == pytest.approx(8.780264, rel=1e-5)
    vectors = torch.from_numpy(2 * uniform((8, 6)) - 1).float()
    assert float(SupConLoss_Lp()(vectors, LABELS)[0]) == pytest.approx(54.516968, rel=1e-5)

    parts = torch.from_numpy(2 * uniform((8, 16, 3)) - 1).float().permute(2, 0, 1)
    loss, info = weighted_triplets(parts, LABELS, 0.2)
    np.testing.assert_allclose(loss, [1.579905, 1.373665, 1.118756], rtol=1e-5)
    np.testing.assert_allclose(info["mean_dist"], [4.8995, 4.4639, 4.7570], rtol=1e-4)
    np.testing.assert_allclose(pairwise_contrast(parts, LABELS, 0.1), [5.111907, 3.702903, 2.356961], rtol=1e-5)


def slow_anchor_terms(similarities: Tensor, labels: list[int]) -> Tensor:
    terms = []
    n = len(labels)
    for i in range(n):
        others = sum(similarities[i, k].exp() for k in range(n) if k != i)
        shares = [(similarities[i, j].exp() / others).log() for j in range(n) if j != i and labels[i] == labels[j]]
        terms.append(-sum(shares) / len(shares) if shares else 0 * similarities[i].sum())
    return torch.stack(terms)


@GROUPS
def test_anchor_terms_equal_the_loop(labels: list[int]) -> None:
    fast = random(len(labels), len(labels)).requires_grad_()
    slow = fast.detach().clone().requires_grad_()
    weights = random(len(labels), seed=1)
    number = torch.tensor(labels)
    found, expected = anchor_terms(fast, number, log_sum_of_others(fast, number)), slow_anchor_terms(slow, labels)
    torch.testing.assert_close(found, expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(fast.grad, slow.grad)


def test_contrast_of_distances_counts_terms_above_zero_only() -> None:
    features = random(6, 3).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 2, 3])
    unit = functional.normalize(features, dim=1)
    distances = torch.stack([torch.stack([(a - b).norm() if a is not b else a.sum() * 0 for b in unit]) for a in unit])
    terms = [term for term in slow_anchor_terms(-distances / 0.5, labels.tolist()) if term > 0]
    torch.testing.assert_close(SupConLoss_Lp(0.5)(features, labels)[0], sum(terms) / len(terms))
    alone, _ = SupConLoss_Lp(0.5)(features, torch.arange(6))
    alone.backward()
    assert float(alone.detach()) == 0
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_anchors_far_from_all_others_do_not_break_training() -> None:
    """In float32 the shares of their similarities vanish: such anchors are left out, with finite gradients."""
    features = torch.from_numpy(2 * uniform((8, 6)) - 1).float().requires_grad_()
    loss, _ = SupConLoss_Lp()(features, LABELS)
    loss.backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    exact, _ = SupConLoss_Lp()(features.detach().double(), LABELS)
    assert float(exact) == pytest.approx(48.4525, rel=1e-5)


def test_equal_vectors_have_finite_gradients() -> None:
    features = torch.ones(4, 3, requires_grad=True)
    SupConLoss_Lp()(features, torch.tensor([0, 0, 1, 1]))[0].backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_not_finite_features_show_in_the_loss() -> None:
    features = random(4, 3)
    features[1, 0] = math.nan
    labels = torch.tensor([0, 0, 1, 1])
    assert SupConLoss_Lp()(features, labels)[0].isnan()
    assert SupConLoss_Re()(features[:, None], labels)[0].isnan()
    assert InterClassLoss()(features[..., None], labels)[0].isnan().all()


def slow_contrast(part: Tensor, labels: list[int], temperature: float) -> Tensor:
    n = len(labels)
    terms = [
        torch.log1p(((part[a] @ part[k] - part[a] @ part[b]) / temperature).exp())
        for a in range(n)
        for b in range(n)
        for k in range(n)
        if labels[a] == labels[b] and labels[a] != labels[k]
    ]
    return sum(terms) / len(terms) if terms else 0 * part.sum()  # type: ignore[return-value]


@GROUPS
def test_pairwise_contrast_equals_the_loop(labels: list[int]) -> None:
    fast = random(2, len(labels), 3).requires_grad_()
    slow = fast.detach().clone().requires_grad_()
    found = pairwise_contrast(fast, torch.tensor(labels), 0.5)
    expected = torch.stack([slow_contrast(part, labels, 0.5) for part in slow])
    torch.testing.assert_close(found, expected)
    (found * torch.tensor([1.0, 3.0])).sum().backward()
    (expected * torch.tensor([1.0, 3.0])).sum().backward()
    torch.testing.assert_close(fast.grad, slow.grad)


@GROUPS
def test_uniformity_equals_the_loop(labels: list[int]) -> None:
    x = random(2, len(labels), 3)
    number = torch.tensor(labels)
    expected = []
    for part in x:
        means = [functional.normalize(part[number == label].mean(0), dim=0) for label in sorted(set(labels))]
        pairs = [(-2 * (a - b).square().sum()).exp() for a in means for b in means if a is not b]
        expected.append(torch.stack(pairs).mean().log() if pairs else x.new_zeros(()))
    torch.testing.assert_close(class_uniformity(x, number, 2.0), torch.stack(expected))


def test_uniformity_has_the_gradient_of_its_value() -> None:
    torch.autograd.gradcheck(lambda x: class_uniformity(x, LABELS, 2.0), random(2, 8, 3).requires_grad_())


def test_weights_of_pairs_have_no_gradient() -> None:
    x = random(1, 8, 3).requires_grad_()
    unit = functional.normalize(x.detach(), dim=-1)
    weight = 1.01 - (1 + unit @ unit.mT) / 2
    distances = (x[:, :, None] - x[:, None] + 1e-30).norm(dim=-1) * (1 + weight / weight.max())
    expected = torch.autograd.grad(TripletLoss(0.2).of_distances(distances, LABELS)[0].sum(), x)[0]
    found = torch.autograd.grad(weighted_triplets(x, LABELS, 0.2)[0].sum(), x)[0]
    torch.testing.assert_close(found, expected)


def test_parts_of_the_inter_class_loss_add_up() -> None:
    embeddings = random(8, 4, 3)
    parts = embeddings.permute(2, 0, 1)
    loss, info = InterClassLoss(contrast_weight=0.5, uniformity_weight=2.0)(embeddings, LABELS)
    expected = weighted_triplets(parts, LABELS, 0.2)[0] + 0.5 * pairwise_contrast(parts, LABELS, 0.1)
    torch.testing.assert_close(loss, expected + 2 * class_uniformity(parts, LABELS, 2.0))
    assert list(info) == [
        "loss", "triplet_loss", "hard_loss", "loss_num", "mean_dist", "contrast_loss", "uniformity_loss",
    ]  # fmt: skip
    only_triplets, info = InterClassLoss(contrast_weight=0)(embeddings, LABELS)
    torch.testing.assert_close(only_triplets, info["triplet_loss"])
    assert "contrast_loss" not in info


def test_every_loss_compares_sequences_and_takes_a_weight() -> None:
    cfg = [
        {"type": "SupConLoss_Re", "log_prefix": "re", "loss_term_weight": 0.5},
        {"type": "SupConLoss_Lp", "log_prefix": "lp", "temperature": 0.1, "loss_term_weight": 2.0},
        {"type": "InterClassLoss", "log_prefix": "triplet", "loss_term_weight": 0.25},
    ]
    losses = LossAggregator(cfg)
    assert all(loss.pairwise for loss in losses.losses.values())
    vectors, embeddings = random(8, 3), random(8, 4, 2)
    total, _ = losses({
        "re": {"features": vectors[:, None], "labels": LABELS},
        "lp": {"features": vectors, "labels": LABELS},
        "triplet": {"embeddings": embeddings, "labels": LABELS},
    })  # fmt: skip
    one = 0.5 * SupConLoss_Re()(vectors[:, None], LABELS)[0] + 2 * SupConLoss_Lp(0.1)(vectors, LABELS)[0]
    torch.testing.assert_close(total, one + 0.25 * InterClassLoss()(embeddings, LABELS)[0].mean())


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"features \[n, v, c\]"):
        SupConLoss_Re()(torch.zeros(4, 3), torch.zeros(4))
    with pytest.raises(ValueError, match=r"features \[n, c\]"):
        SupConLoss_Lp()(torch.zeros(4, 3), torch.zeros(5))
    with pytest.raises(ValueError, match=r"embeddings \[n, c, p\]"):
        InterClassLoss()(torch.zeros(4, 3), torch.zeros(4))
