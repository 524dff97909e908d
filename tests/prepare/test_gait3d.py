"""Gait3D: silhouettes and SMPL estimates of the same frames, told by their names."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from memory_folder import MemoryFolder

from opengait.prepare import normalize_silhouette
from opengait.prepare.dataset import Planned, Prepared
from opengait.prepare.folders import RawFolder
from opengait.prepare.gait3d import NO_SILHOUETTE, NO_SMPL, PEOPLE, UNREADABLE, UNSAFE, VALUES, Gait3D
from opengait.synthetic.raw.faults import Foreign

SEQUENCE = Planned("0001", "camid3_videoid2", "seq0", {})


def silhouette(number: int) -> np.ndarray:
    image = np.zeros((90, 50), np.uint8)
    cv2.ellipse(image, (20 + number, 45), (10, 40), 0, 0, 360, 255, -1)
    return image


def png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


def person(number: int) -> dict[str, Any]:
    vector = np.arange(85, dtype=np.float32) + number
    return {"cam": vector[:3], "poses": vector[3:75], "betas": vector[75:], "verts": np.zeros((4, 3))}


def npz(*people: Any, **arrays: Any) -> bytes:
    if people:
        arrays["results"] = np.empty(len(people), dtype=object)
        arrays["results"][:] = people
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def prepare(images: dict[str, bytes], estimates: dict[str, bytes] | None, size: int | None = 64) -> Prepared:
    sources = {"silhouettes": MemoryFolder({f"{name}.png": data for name, data in images.items()})}
    if estimates is not None:
        sources["smpl"] = MemoryFolder({f"{name}.npz": data for name, data in estimates.items()})
    return Gait3D().prepare(SEQUENCE, sources, size)


IMAGES = {f"f{number}": png(silhouette(number)) for number in range(4)}
ESTIMATES = {f"f{number}": npz(person(number)) for number in range(4)}


def test_silhouettes_and_vectors_of_the_same_frames_go_together():
    prepared = prepare(IMAGES, ESTIMATES)
    assert list(prepared.arrays) == ["sils-seq0.pkl", "smpls-seq0.pkl"]
    np.testing.assert_array_equal(
        prepared.arrays["sils-seq0.pkl"], [normalize_silhouette(silhouette(number)) for number in range(4)]
    )
    vectors = prepared.arrays["smpls-seq0.pkl"]
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, np.arange(85) + np.arange(4)[:, None])
    assert (prepared.found, prepared.dropped) == (4, [])


def test_silhouettes_alone_are_prepared_as_any_others():
    prepared = prepare(IMAGES, None, size=128)
    assert {name: array.shape for name, array in prepared.arrays.items()} == {"seq0.pkl": (4, 128, 128)}


def numbers(**replaced: Any) -> bytes:
    content = {**person(1), **replaced}
    return npz(**{name: value for name, value in content.items() if value is not None})


@pytest.mark.parametrize(
    ("estimate", "reason"),
    [
        (None, NO_SMPL),
        (b"cut", UNREADABLE),
        (npz(person(0), person(1)), PEOPLE),
        (npz(Foreign()), UNSAFE),
        (npz({"poses": np.zeros(72), "betas": np.zeros(10)}), VALUES),
        (npz("a person"), VALUES),
        (numbers(poses=np.zeros(69)), VALUES),
        (numbers(betas=np.full(10, np.nan)), VALUES),
        (npz(results=np.zeros(3)), VALUES),
        (npz({**person(0), "cam": ["a", "b", "c"]}), VALUES),
    ],
)
def test_a_frame_without_the_estimate_of_one_person_is_dropped(estimate, reason):
    estimates = {name: data for name, data in ESTIMATES.items() if name != "f1"}
    if estimate is not None:
        estimates["f1"] = estimate
    prepared = prepare(IMAGES, estimates)
    assert [frame.reason for frame in prepared.dropped] == [reason]
    assert [frame.name.split(".")[0] for frame in prepared.dropped] == ["f1"]
    np.testing.assert_array_equal(prepared.arrays["smpls-seq0.pkl"][:, 0], [0, 2, 3])
    assert len(prepared.arrays["sils-seq0.pkl"]) == 3
    assert prepared.found == 4


def test_a_frame_without_a_usable_silhouette_is_dropped():
    images = {**IMAGES, "f0": png(np.zeros((90, 50), np.uint8))}
    del images["f3"]
    prepared = prepare(images, ESTIMATES)
    assert [(frame.name, frame.reason) for frame in prepared.dropped][1] == ("f3.npz", NO_SILHOUETTE)
    np.testing.assert_array_equal(prepared.arrays["smpls-seq0.pkl"][:, 0], [1, 2])
    assert prepared.found == 4


def test_other_forms_of_an_estimate_are_read():
    plain = numbers()
    nested = npz(results=np.array([[person(1)]], dtype=object))
    without_axes = np.array(None, dtype=object)
    without_axes[()] = [{**person(1), "poses": None, "pose": person(1)["poses"].reshape(24, 3)}]
    del without_axes[()][0]["poses"]
    for estimate in (plain, nested, npz(results=without_axes)):
        prepared = prepare(IMAGES, {**ESTIMATES, "f1": estimate})
        np.testing.assert_array_equal(prepared.arrays["smpls-seq0.pkl"][1], np.arange(85) + 1)


def folder(path: str) -> RawFolder:
    return RawFolder(path, 3, path)


def test_trees_are_told_by_their_names_and_other_forms_left_out():
    place = "0001/camid3_videoid2/seq0"
    trees = ("2D_Silhouettes", "3D_SMPLs", "2D_Poses", "3D_Meshes")
    plan = Gait3D().plan([folder(f"Gait3D/{tree}/{place}") for tree in trees])
    ((*names, sources),) = plan.sequences
    assert "/".join(names) == place
    assert {source: found.path.split("/")[1] for source, found in sources.items()} == {
        "silhouettes": "2D_Silhouettes",
        "smpl": "3D_SMPLs",
    }
    assert [item.path.split("/")[1] for item in plan.left_out] == ["2D_Poses", "3D_Meshes"]


def test_a_sequence_without_smpl_is_left_out_only_where_others_have_it():
    one, two = (f"2D_Silhouettes/0001/camid3_videoid2/seq{number}" for number in (0, 1))
    assert len(Gait3D().plan([folder(one), folder(two)]).sequences) == 2
    plan = Gait3D().plan([folder(one), folder(two), folder(one.replace("2D_Silhouettes", "3D_SMPLs"))])
    assert [sequence.view for sequence in plan.sequences] == ["seq0"]
    assert [(item.path, item.reason) for item in plan.left_out] == [(two, "the sequence has no smpl")]
