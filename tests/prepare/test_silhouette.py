from __future__ import annotations

import numpy as np
import pytest

from opengait.prepare import normalize_parsing, normalize_silhouette


def person(left: int = 150, right: int = 170, top: int = 50, bottom: int = 150) -> np.ndarray:
    image = np.zeros((240, 320), np.uint8)
    image[top:bottom, left:right] = 255
    return image


def test_golden_frames(shared):
    golden = np.load(shared("golden/pretreat/pretreat.npz"))
    frames = [normalize_silhouette(frame) for frame in golden["in/a"]]
    assert frames[8] is None
    assert frames[9] is None
    assert frames[12] is None
    kept = np.stack([frame for frame in frames if frame is not None])
    assert kept.shape == golden["out/a_64"].shape
    # One grey level is what OpenCV releases differ by in the bicubic resize.
    assert np.abs(kept.astype(int) - golden["out/a_64"].astype(int)).max() <= 1


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("left", [5, 140, 295])
def test_person_fills_the_height_and_median_is_the_middle_column(size, left):
    frame = normalize_silhouette(person(left, left + 20), size)
    assert frame.shape == (size, size)
    assert frame.dtype == np.uint8
    assert frame[0].any()
    assert frame[-1].any()
    columns = np.cumsum(frame.sum(0, dtype=np.int64))
    assert np.flatnonzero(columns * 2 > columns[-1])[0] == size // 2


def test_position_in_the_image_does_not_matter():
    np.testing.assert_array_equal(
        normalize_silhouette(person(100, 130, 40, 160)), normalize_silhouette(person(100, 130, 90, 210))
    )


def test_bool_is_scaled():
    np.testing.assert_array_equal(normalize_silhouette(person() > 0), normalize_silhouette(person()))


def test_forty_white_pixels_are_a_person_and_thirty_nine_are_not():
    image = np.zeros((240, 320), np.uint8)
    image[100:139, 160] = 255
    assert normalize_silhouette(image) is None
    image[139, 160] = 255
    assert normalize_silhouette(image) is not None


def test_one_stray_pixel_enlarges_the_row_crop():
    image = person()
    image[10, 160] = 1
    assert np.flatnonzero(normalize_silhouette(image).sum(1) > 255)[0] > 10


def test_median_at_column_zero_is_dropped():
    image = np.zeros((240, 320), np.uint8)
    image[20:220, 0] = 255
    assert normalize_silhouette(image) is None


@pytest.mark.parametrize(
    ("image", "size", "says"),
    [
        (person(), 63, "even"),
        (person(), 0, "even"),
        (person(), 64.0, "even"),
        (None, 64, "found NoneType; cv2.imread gives None"),
        (person().tolist(), 64, "an array .* found list"),
        (np.zeros((240, 320, 3), np.uint8), 64, "colour"),
        (np.zeros((240, 320), np.float32), 64, "float32"),
        (np.zeros((0, 320), np.uint8), 64, "empty"),
    ],
)
def test_other_images_are_refused_with_advice(image, size, says):
    with pytest.raises(ValueError, match=says):
        normalize_silhouette(image, size)


def test_parsing_maps_are_cut_as_their_silhouette_and_classes_are_never_mixed():
    rng = np.random.default_rng(3)
    classes = np.zeros((240, 320), np.uint8)
    classes[50:180, 130:170] = rng.choice((1, 5, 9), (130, 40))
    found = normalize_parsing(classes)
    mask = normalize_silhouette((classes > 0).astype(np.uint8) * 255)
    assert found is not None
    assert mask is not None
    assert set(np.unique(found)) <= {0, 1, 5, 9}
    assert ((found > 0) != (mask > 127)).mean() < 0.02
    assert normalize_parsing(np.zeros((240, 320), np.uint8)) is None
    with pytest.raises(ValueError, match="even"):
        normalize_parsing(classes, 63)
