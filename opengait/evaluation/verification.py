"""Verification and open-set identification: how often a stranger is taken for someone, at which price.

A pair is accepted where its distance is at most a threshold. Only the distances of genuine pairs (one subject twice)
are kept; of impostor pairs it is counted how many lie within each of them, which is all that a ROC is made of. Nothing
of the number of pairs is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opengait.evaluation.chunks import chunks
from opengait.evaluation.distances import Distances
from opengait.evaluation.ranking import Kin, Kinship

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4, 1e-5)
FALSE_ALARM_RATES = (1e-1, 1e-2)
NOT_RESOLVABLE = "not resolvable"
# A rate is told only where this many errors are expected at it (the rule of 30 of biometric testing: then the true rate
# lies within a third of the measured one, nine times in ten).
ERRORS_NEEDED = 30
_DRAWS = 1000
_GRID = 1000
_CURVE = 200
_BYTES_PER_PAIR = 48


@dataclass(frozen=True)
class Comparisons:
    """What is compared: numbers of sequences, and a number of subject and view for every sequence.

    Attributes:
        probes, gallery: `[n_probes]`, `[n_gallery]`; a sequence is never compared with itself.
        labels: subject of every sequence.
        exclusion: a pair of one number takes no part; None: all do.
        views: given where pairs of one view take no part.
    """

    probes: IntArray
    gallery: IntArray
    labels: IntArray
    exclusion: IntArray | None = None
    views: IntArray | None = None


def verification(distances: Distances, compared: Comparisons, *, seed: int = 0) -> dict[str, Any]:
    """ROC, EER, TAR at FAR, and DIR at FPIR, with bounds. Collective; the same in every process.

    Returns:
        `genuine` and `impostor`, numbers of pairs; `EER`, `TAR` (by false accept rate) and `DIR` (rank-1 detection and
        identification rate by false alarm rate) in percent, each a `value` and `bounds`, or "not resolvable"; `ROC`, up
        to 200 points [false accept rate, true accept rate], fractions. Bounds are the middle 95 % of a thousand draws
        of the probes' subjects with replacement, before the same gallery.

        In open-set identification every probe is searched twice: in the gallery, and in the gallery without its own
        subject, where any answer is a false alarm.

    Raises:
        ValueError: no genuine or no impostor pair.
    """
    held = distances.held(compared.gallery)
    kinship = Kinship(compared.labels, _keys(compared), compared.gallery[held])
    genuine, probe, nearest_own = _genuine(distances, compared, kinship, held)
    if not len(genuine):
        raise ValueError("verification needs a genuine pair: none of the probes' subjects is in the gallery")
    order = np.argsort(genuine, kind="stable")
    tally = _Tally(genuine[order], compared.labels[compared.probes])
    nearest_other = tally.count(distances, compared, kinship, held)
    if not tally.impostors:
        raise ValueError("verification needs an impostor pair: the gallery has no subject but the probe's own")
    rng = np.random.default_rng(seed)
    weights = tally.draw_subjects(rng)
    # Equal distances are accepted together.
    accepted = np.searchsorted(tally.thresholds, tally.thresholds, side="right") / len(genuine)
    false = tally.false_accepts[:-1].cumsum() / tally.impostors
    drawn_accepted, drawn_false = tally.drawn(weights, probe[order])
    result: dict[str, Any] = {"genuine": len(genuine), "impostor": tally.impostors}
    result["EER"] = _figure(_equal_error, (false, accepted), (drawn_false, drawn_accepted))
    result["TAR"] = {
        f"{rate:.0e}": _figure(partial(_accepted_at, rate=rate), (false, accepted), (drawn_false, drawn_accepted))
        if tally.impostors * rate >= ERRORS_NEEDED
        else NOT_RESOLVABLE
        for rate in FALSE_ACCEPT_RATES
    }
    shown = np.unique(np.linspace(0, len(false) - 1, _CURVE).astype(np.int64))
    result["ROC"] = [[float(false[i]), float(accepted[i])] for i in shown]
    result["DIR"] = _open_set(nearest_own, nearest_other, tally.subjects, weights)
    return result


def _keys(compared: Comparisons) -> IntArray:
    """A number for each sequence; pairs of one are never rivals: itself, or what the protocol keeps apart."""
    return np.arange(len(compared.labels)) if compared.exclusion is None else compared.exclusion


def _no_part(compared: Comparisons, probes: IntArray, gallery: IntArray) -> NDArray[np.bool_]:
    """Genuine pairs that take no part."""
    out = probes == gallery
    return out if compared.views is None else out | (compared.views[probes] == compared.views[gallery])


def _genuine(
    distances: Distances, compared: Comparisons, kinship: Kinship, held: IntArray
) -> tuple[NDArray[np.float32], IntArray, NDArray[np.float32]]:
    """Distances of genuine pairs of all processes, the place of each one's probe, and each probe's smallest."""
    values, owners = [np.zeros(0, dtype=np.float32)], [np.zeros(0, dtype=np.int64)]
    expected = int(np.bincount(compared.labels)[compared.labels[compared.probes]].sum())
    for rows, chunk in chunks(distances, compared.probes, compared.gallery, held, expected):
        kin = kinship.of(compared.probes[rows])
        taken = kin.right & ~_no_part(compared, compared.probes[rows][kin.row], compared.gallery[held][kin.column])
        row, column = kin.row[taken], kin.column[taken]
        order = np.argsort(row, kind="stable")
        values.append(chunk.exact(row[order], column[order]).cpu().numpy())
        owners.append(row[order] + rows.start)
    gather = distances.exchange.gather
    genuine, probe = np.concatenate(gather(np.concatenate(values))), np.concatenate(gather(np.concatenate(owners)))
    # In one order for any number of processes.
    order = np.lexsort((genuine, probe))
    smallest = np.full(len(compared.probes), np.inf, dtype=np.float32)
    np.minimum.at(smallest, probe, genuine)
    return genuine[order], probe[order], smallest


class _Tally:
    """Impostor pairs counted by the genuine distances that they lie within.

    Args:
        thresholds: genuine distances, ascending.
        labels: subject of each probe.
    """

    def __init__(self, thresholds: NDArray[np.float32], labels: IntArray) -> None:
        self.thresholds = thresholds
        self.known, self.subjects = np.unique(labels, return_inverse=True)
        self.false_accepts = np.zeros(len(thresholds) + 1, dtype=np.int64)
        self.impostors = 0
        # Draws of subjects need counts by subject; for these a thousand thresholds have to do.
        self.grid = np.unique(np.linspace(0, len(thresholds) - 1, _GRID).astype(np.int64))
        self._coarse = np.searchsorted(self.grid, np.arange(len(thresholds) + 1))
        self.by_subject = np.zeros((len(self.known), len(self.grid) + 1), dtype=np.int64)
        self._of_subject = np.zeros(len(self.known), dtype=np.int64)

    def count(
        self, distances: Distances, compared: Comparisons, kinship: Kinship, held: IntArray
    ) -> NDArray[np.float32]:
        """Counts all impostor pairs; each probe's smallest distance to another subject, infinite if there is none."""
        smallest = np.full(len(compared.probes), np.inf, dtype=np.float32)
        for rows, apart in _impostors(distances, compared, kinship, held):
            bins = torch.searchsorted(torch.from_numpy(self.thresholds).to(apart.device), apart)
            there = torch.isfinite(apart).sum(dim=1).cpu().numpy()
            fine = torch.bincount(bins.flatten(), minlength=len(self.false_accepts))
            self.false_accepts += fine.cpu().numpy()
            subjects = torch.as_tensor(self.subjects[rows], device=apart.device)[:, None]
            cells = torch.from_numpy(self._coarse).to(apart.device)[bins] + subjects * self.by_subject.shape[1]
            coarse = torch.bincount(cells.flatten(), minlength=self.by_subject.size)
            self.by_subject += coarse.cpu().numpy().reshape(self.by_subject.shape)
            np.add.at(self._of_subject, self.subjects[rows], there)
            if apart.shape[1]:
                smallest[rows] = apart.amin(dim=1).cpu().numpy()
        total = distances.exchange.total
        self.false_accepts, self.by_subject = total(self.false_accepts), total(self.by_subject)
        self._of_subject = total(self._of_subject)
        self.impostors = int(self._of_subject.sum())
        return np.stack(distances.exchange.gather(smallest)).min(axis=0)

    def draw_subjects(self, rng: np.random.Generator) -> FloatArray:
        """How often each subject is drawn, `[draws, subjects]`."""
        count = len(self.known)
        return rng.multinomial(count, np.full(count, 1 / count), size=_DRAWS).astype(np.float64)

    def drawn(self, weights: FloatArray, probe: IntArray) -> tuple[FloatArray, FloatArray]:
        """Shares of genuine and of impostor pairs accepted at each threshold of the grid, `[draws, grid]`."""
        genuine = np.zeros((len(self.known), len(self.grid) + 1))
        first = np.searchsorted(self.thresholds, self.thresholds)
        np.add.at(genuine, (self.subjects[probe], self._coarse[first]), 1)
        shares = []
        for table, totals in ((genuine, genuine.sum(axis=1)), (self.by_subject.astype(np.float64), self._of_subject)):
            drawn = weights @ table[:, :-1].cumsum(axis=1)
            shares.append(drawn / np.maximum(weights @ totals, 1)[:, None])
        return shares[0], shares[1]


def _impostors(
    distances: Distances, compared: Comparisons, kinship: Kinship, held: IntArray
) -> Iterator[tuple[slice, Tensor]]:
    """Distances from some probes at a time to the gallery held here, infinite where a pair is no impostor's."""
    for rows, apart in distances.rows(compared.probes, compared.gallery, bytes_per_pair=_BYTES_PER_PAIR):
        kin: Kin = kinship.of(compared.probes[rows])
        apart[torch.from_numpy(kin.row).to(apart.device), torch.from_numpy(kin.column).to(apart.device)] = torch.inf
        if compared.views is not None:
            own = torch.as_tensor(compared.views[compared.probes[rows]], device=apart.device)[:, None]
            apart.masked_fill_(
                own == torch.as_tensor(compared.views[compared.gallery[held]], device=apart.device), torch.inf
            )
        yield rows, apart


def _figure(
    measure: Callable[[FloatArray, FloatArray], FloatArray],
    curves: tuple[FloatArray, FloatArray],
    drawn: tuple[FloatArray, FloatArray],
) -> dict[str, Any]:
    value = measure(curves[0][None], curves[1][None])[0]
    return _bounded(float(value), measure(*drawn))


def _bounded(value: float, draws: FloatArray) -> dict[str, Any]:
    low, high = np.percentile(draws, (2.5, 97.5))
    # Draws see a thousand thresholds and the value all of them.
    return {"value": 100 * value, "bounds": [100 * min(float(low), value), 100 * max(float(high), value)]}


def _accepted_at(false: FloatArray, accepted: FloatArray, rate: float) -> FloatArray:
    """The largest share accepted at a false accept rate of at most `rate`: `[n, t]` twice -> `[n]`."""
    return np.where(false <= rate, accepted, 0.0).max(axis=1)


def _equal_error(false: FloatArray, accepted: FloatArray) -> FloatArray:
    """Where false accepts are as frequent as false rejects, on straight lines between thresholds: `[n, t]` -> `[n]`."""
    edge = np.zeros((len(false), 1))
    false = np.concatenate([edge, false, edge + 1], axis=1)
    missed = np.concatenate([edge + 1, 1 - accepted, edge], axis=1)
    after = (false >= missed).argmax(axis=1)[:, None]
    (f0, f1), (m0, m1) = (
        [np.take_along_axis(curve, after - back, 1)[:, 0] for back in (1, 0)] for curve in (false, missed)
    )
    share = (m0 - f0) / np.maximum((m0 - f0) + (f1 - m1), 1e-300)
    return f0 + share * (f1 - f0)


def _open_set(
    own: NDArray[np.float32], other: NDArray[np.float32], subjects: IntArray, weights: FloatArray
) -> dict[str, Any]:
    """Share of probes whose subject is in the gallery that are found first and within the threshold, by alarm rate."""
    order = np.argsort(other, kind="stable")
    mated, alarms = np.isfinite(own), other[order]

    def rates(repeats: FloatArray, rate: float) -> float:
        """With each probe counted so many times."""
        behind = repeats[order].cumsum()
        place = int(np.searchsorted(behind, rate * behind[-1], side="right"))
        limit = alarms[place] if place < len(alarms) else np.inf
        return float(repeats[mated & (own < other) & (own < limit)].sum() / max(repeats[mated].sum(), 1))

    result: dict[str, Any] = {}
    for rate in FALSE_ALARM_RATES:
        if len(own) * rate < ERRORS_NEEDED:
            result[f"{rate:.0e}"] = NOT_RESOLVABLE
        else:
            draws = np.array([rates(draw[subjects], rate) for draw in weights])
            result[f"{rate:.0e}"] = _bounded(rates(np.ones(len(own)), rate), draws)
    return result


def verification_lines(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """For a log: a line for each condition."""
    lines = []
    for condition, one in found.items():
        told = [f"{one['genuine']} genuine and {one['impostor']} impostor pairs", f"EER {_shown(one['EER'])}"]
        told += [f"TAR at FAR {rate} {_shown(figure)}" for rate, figure in one["TAR"].items()]
        told += [f"open-set DIR at FPIR {rate} {_shown(figure)}" for rate, figure in one["DIR"].items()]
        lines.append(f"verification {condition}: {', '.join(told)}")
    return lines


def _shown(figure: str | Mapping[str, Any]) -> str:
    if isinstance(figure, str):
        return figure
    low, high = figure["bounds"]
    return f"{figure['value']:.2f} % [{low:.2f}, {high:.2f}]"
