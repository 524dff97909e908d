"""GREW as it is downloaded: normalised silhouettes, 64x64, each with its 2-D and 3-D pose, in archives in archives."""

from __future__ import annotations

import string

import numpy as np

from opengait.prepare import normalize_silhouette
from opengait.synthetic.camera import HEIGHT, WIDTH
from opengait.synthetic.keys import generator
from opengait.synthetic.raw import archives, faults
from opengait.synthetic.raw.film import Film, Walk
from opengait.synthetic.raw.layout import NORMAL_WALKS, Cast, Layout, Recording, Take

_SIZE = 64
_TRAIN_VIDEOS, _GALLERY_VIDEOS, _PROBE_VIDEOS = 4, 2, 2
_TRAIN_SUBJECTS, _TEST_SUBJECTS = 20_000, 6_000
_LETTERS = string.ascii_letters + string.digits


class Grew(Layout):
    """`train/id/video`, `test/gallery/id/video` and `test/probe/video`, whose subjects are not told.

    A video has `frame.png`, `frame_2d_pose.txt`, `frame_3d_pose.txt` and, beside its folder, `video_gei.png`.
    """

    name = "GREW"
    ships_archives = True
    faults = faults.OF_NORMALISED

    def subjects(self, count: int) -> tuple[list[str], list[str]]:
        train = (count + 1) // 2
        if train > _TRAIN_SUBJECTS or count - train > _TEST_SUBJECTS:
            raise ValueError(f"{self.name} has {_TRAIN_SUBJECTS} training and {_TEST_SUBJECTS} test subjects")
        return (
            [f"{number:05d}train" for number in range(1, train + 1)],
            [f"{number:05d}" for number in range(1, count - train + 1)],
        )

    def takes(self, cast: Cast) -> list[Take]:
        takes = []
        for walker, subject in enumerate(cast.train):
            for number, video in enumerate(_videos(cast.seed, subject, _TRAIN_VIDEOS)):
                folder = f"train/{subject.removesuffix('train')}/{video}"
                takes.append(self._take(cast.seed, walker, number, subject, "00", video, folder))
        for walker, subject in enumerate(cast.test, start=len(cast.train)):
            videos = _videos(cast.seed, subject, _GALLERY_VIDEOS + _PROBE_VIDEOS)
            # The videos of a test subject have no number of their own: they are numbered in the order of their names.
            for number, video in enumerate(sorted(videos[:_GALLERY_VIDEOS])):
                folder, kind = f"test/gallery/{subject}/{video}", f"{number + 1:02d}"
                takes.append(self._take(cast.seed, walker, number, subject, kind, video, folder)._replace(fixed=True))
            for number, video in enumerate(videos[_GALLERY_VIDEOS:], start=_GALLERY_VIDEOS):
                takes.append(self._take(cast.seed, walker, number, "probe", "03", video, f"test/probe/{video}"))
        return takes

    def _take(self, seed: int, walker: int, number: int, subject: str, kind: str, video: str, folder: str) -> Take:
        angle = float(generator(seed, "raw camera", walker, number).integers(360))
        return Take(walker, NORMAL_WALKS[number], angle, subject, kind, video, folder)

    def record(self, take: Take, walk: Walk) -> Recording:
        film = walk.film(take.angle)
        frames = [normalize_silhouette(mask, _SIZE) for mask in film.masks]
        files, paths = {}, []
        for index, frame in enumerate(frames):
            stem = f"{take.folder}/{index + 1:05d}"
            of_frame = {
                f"{stem}.png": faults.encode(np.zeros((_SIZE, _SIZE), np.uint8) if frame is None else frame),
                f"{stem}_2d_pose.txt": _pose_2d(film, index),
                f"{stem}_3d_pose.txt": _pose_3d(film, index),
            }
            files.update(of_frame)
            paths.append(tuple(of_frame))
        energy = np.mean([frame for frame in frames if frame is not None], axis=0)
        files[f"{take.folder}_gei.png"] = faults.encode(np.rint(energy).astype(np.uint8))
        return Recording(files, paths)

    def archived(self, tree: dict[str, bytes | None]) -> dict[str, bytes]:
        """`train.zip` and `test.zip`, without the password; in each a tgz, in it one tgz a subject or probe video."""
        train, test = archives.below(tree, "train"), archives.below(tree, "test")
        gallery, probe = archives.below(test, "gallery"), archives.below(test, "probe")
        inner = {
            "train": {f"train/{name}.tgz": archives.tar(files, "gz") for name, files in _parts(train).items()},
            "test": {f"test/gallery/{name}.tgz": archives.tar(files, "gz") for name, files in _parts(gallery).items()}
            | {f"test/probe/{name}.tgz": archives.tar(files, "gz") for name, files in _parts(probe).items()},
        }
        return {
            f"{name}.zip": archives.zipped({f"{name}.tgz": archives.tar(parts, "gz")}) for name, parts in inner.items()
        }


def _parts(tree: dict[str, bytes | None]) -> dict[str, dict[str, bytes | None]]:
    """By subject or video; a video's energy image goes with the video."""
    parts: dict[str, dict[str, bytes | None]] = {}
    for path, content in tree.items():
        parts.setdefault(path.split("/")[0].removesuffix("_gei.png"), {})[path] = content
    return parts


def _videos(seed: int, subject: str, count: int) -> list[str]:
    rng = generator(seed, "raw videos", subject)
    return ["".join(rng.choice(list(_LETTERS), 8)) for _ in range(count)]


def _pose_2d(film: Film, index: int) -> bytes:
    """Width and height of the image, then 17 times x, y, confidence."""
    numbers = [f"{WIDTH}", f"{HEIGHT}", *(f"{value:.4f}" for value in film.keypoints[index].ravel())]
    return (",".join(numbers) + "\n").encode()


def _pose_3d(film: Film, index: int) -> bytes:
    """The walker's own joints, x, y, z in metres; the real files' joints are others."""
    return (",".join(f"{value:.4f}" for value in film.joints[index].ravel()) + "\n").encode()
