"""Cross entropy of every part's classifier."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from opengait.modeling.losses.base import BaseLoss
from opengait.modeling.modules.precision import full_precision, no_autocast


class CrossEntropyLoss(BaseLoss):
    """Cross entropy with label smoothing, mean over sequences and parts.

    Source of the smoothing: Rethinking the Inception Architecture (Szegedy et al., CVPR 2016).

    Args:
        scale: factor of the logits; a cosine classifier needs it.
        label_smooth: whether `eps` applies.
        eps: share of the target that is spread over all classes.
        loss_term_weight: factor of this loss in the total.
        log_accuracy: whether info has the accuracy of the batch.
    """

    def __init__(
        self,
        scale: float = 16,
        label_smooth: bool = True,
        eps: float = 0.1,
        loss_term_weight: float = 1.0,
        log_accuracy: bool = False,
    ) -> None:
        super().__init__(loss_term_weight)
        self.scale = scale
        self.label_smooth = label_smooth
        self.eps = eps
        self.log_accuracy = log_accuracy

    @property
    def smoothing(self) -> float:
        """Share of the target that is spread over all classes."""
        return self.eps if self.label_smooth else 0.0

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """logits [n, k, p], labels [n] -> a scalar.

        Raises:
            ValueError: shapes that do not fit; on a CPU also a label that has no class.
        """
        if logits.ndim != 3 or labels.shape != logits.shape[:1]:
            raise ValueError(
                f"expected logits [n, k, p] and labels [n], found {list(logits.shape)}, {list(labels.shape)}"
            )
        classes = logits.shape[1]
        if classes == 1 < logits.shape[2]:
            raise ValueError(
                f"logits {list(logits.shape)} have one class, and so teach nothing; expected [n, k, p]. Networks with "
                "`compat: reference` in model_cfg may have classes and parts interchanged: leave it out to train them"
            )
        check_labels(labels, classes)
        with no_autocast(logits):
            logits = full_precision(logits)
            target = labels.long()[:, None].expand(-1, logits.shape[2])
            # As rows [n p, k]: the form with a third axis has no deterministic kernel on CUDA.
            rows = (self.scale * logits).transpose(1, 2).reshape(-1, classes)
            loss = F.cross_entropy(rows, target.reshape(-1), label_smoothing=self.smoothing)
        info = {"loss": loss.detach()}
        if self.log_accuracy:
            info["accuracy"] = (logits.detach().argmax(1) == target).to(loss.dtype).mean()
        return loss, info


def check_labels(labels: Tensor, classes: int) -> None:
    """Every label [n] has a class, 0 to `classes` - 1.

    Looking at the values would make a GPU wait, so there the range is left to the device's own check.

    Raises:
        ValueError: on a CPU, a label that has no class.
    """
    if labels.device.type == "cpu" and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, but the classifier has {classes} "
            "classes; set class_num to the number of training subjects"
        )
