"""OUMVLP as it lies unpacked: `Silhouette_<view>-<type>/<subject>/<frame>.png`, 1280x980."""

from __future__ import annotations

from opengait.synthetic.raw.film import Walk
from opengait.synthetic.raw.layout import NORMAL_WALKS, Cast, Layout, Recording, Take, images

VIEWS = tuple(f"{angle:03d}" for angle in (*range(0, 91, 15), *range(180, 271, 15)))
_HEIGHT, _WIDTH = 980, 1280
_SUBJECTS = 10_307


class Oumvlp(Layout):
    """The archives are 7z files with a password, which nothing here can write; so the unpacked form alone."""

    name = "OUMVLP"
    types = ("00", "01")
    views = VIEWS

    def subjects(self, count: int) -> tuple[list[str], list[str]]:
        if count > _SUBJECTS:
            raise ValueError(f"{self.name} has {_SUBJECTS} subjects, {count} were asked for")
        names = [f"{number:05d}" for number in range(1, count + 1)]
        # The last subject, 10307, is a test subject in spite of its odd number.
        train = [name for name in names if int(name) % 2 and int(name) < _SUBJECTS]
        return train, [name for name in names if name not in train]

    def takes(self, cast: Cast) -> list[Take]:
        return [
            Take(walker, walked, float(view), subject, kind, view, f"Silhouette_{view}-{kind}/{subject}")
            for walker, subject in enumerate([*cast.train, *cast.test])
            for kind, walked in zip(self.types, NORMAL_WALKS, strict=False)
            if kind in cast.types
            for view in cast.views
        ]

    def record(self, take: Take, walk: Walk) -> Recording:
        masks = walk.film(take.angle, _HEIGHT, _WIDTH).masks
        return images(take.folder, [f"{number:04d}.png" for number in range(1, len(masks) + 1)], masks)
