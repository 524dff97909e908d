"""Losses: the reference's numbers, and equality with loop-written twins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import check_info, close_to_peak, uniform
from torch import Tensor

from opengait.modeling.losses import BaseLoss, LossAggregator, aggregator
from opengait.modeling.losses.cross_entropy import CrossEntropyLoss
from opengait.modeling.losses.triplet import TripletLoss
from opengait.registry import Registry

Shared = Callable[[str], Path]


def slow_triplets(embeddings: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, dict[str, Tensor]]:
    """TripletLoss as its docstring says it, one triplet after the other."""
    losses, hard, num, mean = [], [], [], []
    n = len(labels)
    for part in embeddings.unbind(2):
        zero = part.new_zeros(())
        d = [[(part[i] - part[j]).norm() if i != j else zero for j in range(n)] for i in range(n)]
        terms = [
            torch.clamp(d[a][b] + margin - d[a][k], min=0)
            for a in range(n)
            for b in range(n)
            for k in range(n)
            if labels[a] == labels[b] and labels[a] != labels[k]
        ]
        active = [term for term in terms if term > 0]
        losses.append(sum(active) / (len(active) + 1e-9) if active else 0 * part.sum())
        hard.append(max(terms, default=zero))
        num.append(float(len(active)))
        mean.append(torch.stack([torch.stack(row) for row in d]).mean())
    info = {"hard_loss": torch.stack(hard), "loss_num": torch.tensor(num), "mean_dist": torch.stack(mean)}
    return torch.stack(losses), info


@pytest.mark.parametrize(
    "labels",
    [
        [0, 0, 0, 1, 1, 1, 2, 2, 2],
        [0, 0, 0, 0, 5, 5, 2, 9, 9],
        [3, 1, 3, 0, 1, 3, 3, 2, 0],
        [4, 4, 4, 4, 4, 4, 4, 4, 4],
        [0, 1, 2, 3, 4, 5, 6, 7, 8],
        [1],
    ],
    ids=["equal", "unequal", "shuffled", "no negatives", "no positives", "alone"],
)
@pytest.mark.parametrize("margin", [0.2, 2.0])
def test_triplets_equal_the_loop(labels: list[int], margin: float) -> None:
    generator = torch.Generator().manual_seed(len(set(labels)))
    embeddings = torch.randn(len(labels), 4, 3, generator=generator, dtype=torch.float64)
    if len(labels) > 3:
        embeddings[3] = embeddings[0]  # a distance of zero that is not a self pair
        embeddings[:, :, 2] *= 0.01
    fast, slow = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

    loss, info = TripletLoss(margin)(fast, torch.tensor(labels))
    (loss * weights).sum().backward()
    expected, expected_info = slow_triplets(slow, torch.tensor(labels), margin)
    if expected.requires_grad:
        (expected * weights).sum().backward()

    torch.testing.assert_close(loss, expected)
    for name, value in expected_info.items():
        torch.testing.assert_close(info[name], value.detach().to(info[name].dtype))
        torch.testing.assert_close(fast.grad, slow.grad)
    assert torch.isfinite(fast.grad).all()


def test_triplet_gradient_is_that_of_the_loss() -> None:
    embeddings = torch.randn(8, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3])
    loss = TripletLoss(0.5)
    torch.autograd.gradcheck(lambda x: loss(x, labels)[0], embeddings.requires_grad_())


def test_triplet_count_is_exact_at_the_margin() -> None:
    # Distances 3 and 5 and margins around 2: a term of exactly zero does not count.
    embeddings = torch.tensor([0.0, 3.0, 5.0, 100.0]).view(4, 1, 1)
    labels = torch.tensor([0, 0, 1, 2])
    counts = [float(TripletLoss(margin)(embeddings, labels)[1]["loss_num"]) for margin in (1.75, 2.0, 2.25)]
    # Anchor 1's 3 against 2 always counts; anchor 0's 3 against 5, and 0 (oneself) against 2 twice, only beyond 2.
    assert counts == [1, 1, 4]


def test_triplet_sums_do_not_drift_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(256, 8, 1, generator=generator) + 3
    labels = torch.arange(32).repeat_interleave(8)
    single = TripletLoss(0.2)(embeddings, labels)[0]
    double = TripletLoss(0.2)(embeddings.double(), labels)[0]
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=0)


def test_triplet_order_of_sequences_does_not_matter() -> None:
    embeddings = torch.randn(12, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        TripletLoss(0.2)(embeddings, labels)[0], TripletLoss(0.2)(embeddings[order], labels[order])[0]
    )


def test_not_finite_embeddings_show_in_the_loss() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2])
    for value in (float("nan"), float("inf")):
        embeddings = torch.randn(5, 4, 2)
        embeddings[4, 0, 1] = value
        loss, _ = TripletLoss(0.2)(embeddings, labels)
        assert torch.isfinite(loss).tolist() == [True, False]


def test_half_precision_embeddings_give_a_float32_loss() -> None:
    embeddings, labels = torch.randn(6, 4, 2), torch.tensor([0, 0, 1, 1, 2, 2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = TripletLoss(0.2)(embeddings.bfloat16(), labels)
        entropy, _ = CrossEntropyLoss()(embeddings.bfloat16(), torch.zeros(6, dtype=torch.long))
    assert loss.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(loss, TripletLoss(0.2)(embeddings.bfloat16().float(), labels)[0])


@pytest.mark.parametrize(("name", "margin"), [("triplet_base_m0.2", 0.2), ("triplet_tight_m0.1", 0.1)])
def test_triplet_golden(shared: Shared, name: str, margin: float) -> None:
    case = np.load(shared(f"golden/losses/{name}.npz"))
    embeddings = torch.from_numpy(case["embeddings"]).requires_grad_()
    check_golden(case, embeddings, TripletLoss(margin)(embeddings, torch.from_numpy(case["labels"])))


@pytest.mark.parametrize(("name", "smooth"), [("ce_smooth1_scale16", True), ("ce_feb2023_smooth0_scale16", False)])
def test_cross_entropy_golden(shared: Shared, name: str, smooth: bool) -> None:
    case = np.load(shared(f"golden/losses/{name}.npz"))
    logits = torch.from_numpy(case["logits"]).requires_grad_()
    loss = CrossEntropyLoss(scale=16, label_smooth=smooth, log_accuracy=True)
    check_golden(case, logits, loss(logits, torch.from_numpy(case["labels"])))


def check_golden(case: dict[str, np.ndarray], leaf: Tensor, result: tuple[Tensor, dict[str, Tensor]]) -> None:
    loss, info = result
    close_to_peak(loss, case["loss"] if loss.ndim else case["loss"].mean(), "loss")
    assert set(info) == {key.removeprefix("info/") for key in case if key.startswith("info/")}
    for name, value in info.items():
        check_info(name, value, case[f"info/{name}"])
    loss.mean().backward()
    assert leaf.grad is not None
    close_to_peak(leaf.grad, case["grad"], "grad")


def test_reference_values() -> None:
    embeddings = torch.from_numpy(2 * uniform((8, 16, 3)) - 1).float()
    logits = torch.from_numpy(2 * uniform((8, 5, 3)) - 1).float()
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    loss, info = TripletLoss(0.2)(embeddings, labels)
    np.testing.assert_allclose(loss, [0.702750, 0.650608, 0.467074], rtol=1e-5)
    np.testing.assert_allclose(info["hard_loss"], [1.659448, 1.637522, 1.325256], rtol=1e-5)
    assert info["loss_num"].tolist() == [33, 29, 26]
    np.testing.assert_allclose(info["mean_dist"], [2.917276, 2.684460, 2.890841], rtol=1e-4)
    assert float(CrossEntropyLoss()(logits, labels)[0]) == pytest.approx(11.851985, rel=1e-6)
    plain, info = CrossEntropyLoss(scale=1, label_smooth=False, log_accuracy=True)(logits, labels)
    assert float(plain) == pytest.approx(1.793686, rel=1e-6)
    assert float(info["accuracy"]) == pytest.approx(1 / 6, rel=1e-5)


def test_shapes_and_labels_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"expected embeddings \[n, c, p\]"):
        TripletLoss(0.2)(torch.zeros(4, 3), torch.zeros(4))
    with pytest.raises(ValueError, match=r"labels \[n\], found \[4, 3, 2\], \[5\]"):
        TripletLoss(0.2)(torch.zeros(4, 3, 2), torch.zeros(5))
    with pytest.raises(ValueError, match="labels run from 0 to 6, but the classifier has 5 classes; set class_num"):
        CrossEntropyLoss()(torch.zeros(2, 5, 3), torch.tensor([0, 6]))


TRIPLET = {"type": "TripletLoss", "log_prefix": "triplet", "margin": 0.2, "loss_term_weight": 0.5}
SOFTMAX = {"type": "CrossEntropyLoss", "log_prefix": "softmax", "log_accuracy": True}


def features() -> dict[str, dict[str, Tensor]]:
    labels = torch.tensor([0, 0, 1, 1])
    return {
        "triplet": {"embeddings": torch.randn(4, 3, 2, requires_grad=True), "labels": labels},
        "softmax": {"logits": torch.randn(4, 2, 2, requires_grad=True), "labels": labels},
    }


def test_aggregator_sums_weighted_means_and_reports_unweighted() -> None:
    training_feat = features()
    total, info = LossAggregator([TRIPLET, SOFTMAX])({**training_feat, "extra": torch.tensor([1.0, 3.0])})
    triplet = TripletLoss(0.2)(**training_feat["triplet"])[0]
    softmax = CrossEntropyLoss()(**training_feat["softmax"])[0]
    torch.testing.assert_close(total, 0.5 * triplet.mean() + softmax + 2.0)
    torch.testing.assert_close(info["scalar/triplet/loss"], triplet.detach())
    assert list(info) == [
        "scalar/triplet/loss",
        "scalar/triplet/hard_loss",
        "scalar/triplet/loss_num",
        "scalar/triplet/mean_dist",
        "scalar/softmax/loss",
        "scalar/softmax/accuracy",
        "scalar/extra",
    ]
    assert not any(value.requires_grad for value in info.values())


def test_aggregator_hands_each_loss_to_the_wrapper() -> None:
    wrapped: list[BaseLoss] = []

    def doubled(loss: BaseLoss) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
        wrapped.append(loss)
        return lambda **arguments: (2 * loss(**arguments)[0], {})

    training_feat = features()
    twice, _ = LossAggregator([TRIPLET, SOFTMAX], wrap=doubled)(training_feat)
    once, _ = LossAggregator([TRIPLET, SOFTMAX])(training_feat)
    torch.testing.assert_close(twice, 2 * once)
    assert [loss.pairwise for loss in wrapped] == [True, False]


@pytest.mark.parametrize(
    ("loss_cfg", "training_feat", "message"),
    [
        ([TRIPLET, SOFTMAX], {"triplet": features()["triplet"]}, r"loss_cfg names \['softmax'\]"),
        (TRIPLET, {**features(), "triplet": features()["triplet"]}, r"'softmax'.*names in loss_cfg are \['triplet'\]"),
        (TRIPLET, {"triplet": torch.zeros(())}, "has to be a mapping of arguments, found Tensor"),
        (TRIPLET, {**features(), "softmax": "text"}, r"\(str\) belongs to no configured loss"),
        ([], {}, "no loss"),
    ],
)
def test_aggregator_refuses(loss_cfg: object, training_feat: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossAggregator(loss_cfg)(training_feat)


def test_aggregator_refuses_bad_configuration() -> None:
    with pytest.raises(ValueError, match="two losses have the log_prefix 'triplet'"):
        LossAggregator([TRIPLET, TRIPLET])
    with pytest.raises(ValueError, match=r"missing \['log_prefix'\]"):
        LossAggregator({"type": "TripletLoss", "margin": 0.2})
    with pytest.raises(ValueError, match="did you mean 'TripletLoss'"):
        LossAggregator({"type": "TripleLoss", "log_prefix": "triplet"})


def test_aggregator_refuses_what_nothing_would_train(monkeypatch: pytest.MonkeyPatch) -> None:
    class CentreLoss(BaseLoss):
        def __init__(self, learnt: bool) -> None:
            super().__init__()
            self.centres = torch.nn.Parameter(torch.zeros(4, 3, 2), requires_grad=learnt)

    registry = Registry("loss", {})
    registry.register(CentreLoss)
    monkeypatch.setattr(aggregator, "LOSSES", registry)
    entry = {"type": "CentreLoss", "log_prefix": "centre"}
    with pytest.raises(ValueError, match=r"CentreLoss has parameters of its own \(centres\)"):
        LossAggregator({**entry, "learnt": True})
    LossAggregator({**entry, "learnt": False})


def test_aggregator_refuses_what_no_checkpoint_would_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    class MemoryLoss(BaseLoss):
        def __init__(self, persistent: bool) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(2), persistent=persistent)

    registry = Registry("loss", {})
    registry.register(MemoryLoss)
    monkeypatch.setattr(aggregator, "LOSSES", registry)
    entry = {"type": "MemoryLoss", "log_prefix": "memory"}
    with pytest.raises(ValueError, match=r"MemoryLoss has buffers of its own \(seen\).*persistent=False"):
        LossAggregator({**entry, "persistent": True})
    LossAggregator({**entry, "persistent": False})


def test_aggregator_leaves_out_losses_that_get_nothing_if_told_to(caplog: pytest.LogCaptureFixture) -> None:
    labels = torch.tensor([0, 0, 1, 1])
    fed = {"triplet": {"embeddings": torch.randn(4, 3, 2), "labels": labels}}
    both = [TRIPLET, {"type": "CrossEntropyLoss", "log_prefix": "softmax"}]
    with pytest.raises(ValueError, match=r"loss_cfg names \['softmax'\]"):
        LossAggregator(both)(fed)
    tolerant = LossAggregator(both, ignore_unfed=True)
    with caplog.at_level("WARNING"):
        totals = [tolerant(fed)[0] for _ in range(3)]
    assert totals[2] == LossAggregator(TRIPLET)(fed)[0]
    (record,) = caplog.records
    assert "names ['softmax']" in record.getMessage()
    with pytest.raises(ValueError, match="no loss"):
        tolerant({})


def test_cross_entropy_refuses_classes_and_parts_interchanged() -> None:
    with pytest.raises(ValueError, match="have one class"):
        CrossEntropyLoss()(torch.zeros(4, 1, 5), torch.zeros(4, dtype=torch.int64))
