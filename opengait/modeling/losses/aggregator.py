"""The weighted sum of the configured losses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from opengait.modeling.losses.base import BaseLoss
from opengait.registry import LOSSES, nearest

logger = logging.getLogger(__name__)

LossCall = Callable[..., tuple[Tensor, Mapping[str, Tensor]]]


class LossAggregator(nn.Module):
    """Feeds `training_feat` of a network to the losses that the configuration names.

    Args:
        loss_cfg: one mapping or a list of them: `type`, `log_prefix`, and the arguments of that loss.
        wrap: makes the callable that stands for a loss; the engine gathers and scales with it.
        ignore_unfed: a loss that the network gives no arguments is left out with a warning, as the reference
            implementation does without one; else it is an error.

    Raises:
        ValueError: two losses of one prefix, an unknown loss, `type` or `log_prefix` missing, a loss with parameters
            to be learnt or with buffers to be saved.
    """

    def __init__(
        self,
        loss_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        wrap: Callable[[BaseLoss], LossCall] | None = None,
        *,
        ignore_unfed: bool = False,
    ) -> None:
        super().__init__()
        self.ignore_unfed = ignore_unfed
        self._told: set[str] = set()
        self.losses = nn.ModuleDict()
        self._calls: dict[str, LossCall] = {}
        self._weights: dict[str, float] = {}
        for entry in [loss_cfg] if isinstance(loss_cfg, Mapping) else loss_cfg:
            missing = [key for key in ("type", "log_prefix") if key not in entry]
            if missing:
                raise ValueError(
                    f"loss_cfg: every loss needs 'type' and 'log_prefix'; missing {missing} in {dict(entry)}"
                )
            prefix = entry["log_prefix"]
            if prefix in self._calls:
                raise ValueError(f"loss_cfg: two losses have the log_prefix '{prefix}'; give each its own")
            arguments = {key: value for key, value in entry.items() if key not in ("type", "log_prefix")}
            loss = LOSSES.get(entry["type"])(**arguments)
            if learnt := [name for name, parameter in loss.named_parameters() if parameter.requires_grad]:
                raise ValueError(
                    f"loss_cfg: {entry['type']} has parameters of its own ({', '.join(learnt)}), which nothing would "
                    "train or save; put them into the network and hand them over in training_feat"
                )
            if kept := sorted(loss.state_dict().keys() - dict(loss.named_parameters()).keys()):
                raise ValueError(
                    f"loss_cfg: {entry['type']} has buffers of its own ({', '.join(kept)}), which no checkpoint holds: "
                    "register_buffer(..., persistent=False) those that never change, and put others into the network"
                )
            self.losses[prefix] = loss
            self._weights[prefix] = loss.loss_term_weight
            self._calls[prefix] = wrap(loss) if wrap is not None else loss

    def forward(self, training_feat: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """training_feat {prefix: keyword arguments, or any name: tensor} -> (total, info).

        The total is the sum of mean(loss) * loss_term_weight, plus the mean of every tensor that the network returns
        under another name. info maps `scalar/<prefix>/<name>` to detached, unweighted values.

        Raises:
            ValueError: arguments for a loss that is not configured, or a configured loss that gets none.
        """
        self._check_fed(training_feat)
        terms: list[Tensor] = []
        info: dict[str, Tensor] = {}
        for name, value in training_feat.items():
            if name in self._calls:
                if not isinstance(value, Mapping):
                    raise ValueError(
                        f"training_feat['{name}'] has to be a mapping of arguments, found {type(value).__name__}"
                    )
                loss, entries = self._calls[name](**value)
                terms.append(loss.mean() * self._weights[name])
                info.update({f"scalar/{name}/{entry}": figure.detach() for entry, figure in entries.items()})
            elif isinstance(value, Tensor):
                terms.append(value.mean())
                info[f"scalar/{name}"] = terms[-1].detach()
            else:
                near = nearest(name, self._calls)
                raise ValueError(
                    f"training_feat['{name}'] ({type(value).__name__}) belongs to no configured loss; the log_prefix "
                    f"names in loss_cfg are {list(self._calls)}" + (f" (did you mean '{near}'?)" if near else "")
                )
        if not terms:
            raise ValueError("no loss: loss_cfg is empty and training_feat has no tensor")
        return sum(terms[1:], terms[0]), info

    def _check_fed(self, training_feat: Mapping[str, Any]) -> None:
        unfed = [prefix for prefix in self._calls if prefix not in training_feat and prefix not in self._told]
        if not unfed:
            return
        found = f"loss_cfg names {unfed}, but the network's training_feat has only {list(training_feat)}"
        if not self.ignore_unfed:
            raise ValueError(f"{found}; set log_prefix to one of these or remove the loss")
        logger.warning("%s; without effect under compat: reference", found)
        self._told.update(unfed)
