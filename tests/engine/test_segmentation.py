"""Networks with a row a frame instead of an embedding a sequence: tested exactly, by any number of processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine_segmentation
import numpy as np
import pytest
import torch

from opengait.engine.inference import embed
from opengait.engine.randomness import seed_everything
from opengait.evaluation import evaluate
from opengait.evaluation.segmentation import mean_iou, sequence_iou
from opengait.modeling.build import build_model

TAG = "scalar/test_accuracy/mIOU"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engine_segmentation.write_images(tmp_path_factory.mktemp("data"))


def all_images(root: Path) -> dict[str, np.ndarray]:
    """`pred` and `mask` of every frame, sequence by sequence, computed without the engine."""
    from opengait.data.dataset import GaitDataset
    from opengait.data.loader import test_loader
    from opengait.data.transforms import build_transforms

    config = engine_segmentation.segmentation_config(root)
    seed_everything(1)
    model = build_model(config["model_cfg"]).eval()
    dataset = GaitDataset(config["data_cfg"], training=False)
    transforms = build_transforms(config["evaluator_cfg"]["transform"])
    found = {}
    for batch in test_loader(dataset, config["evaluator_cfg"]["sampler"], frames_per_batch=1):
        with torch.no_grad():
            found[int(batch.indices[0])] = model(model.prepare_inputs(batch, transforms))["inference_feat"]
    return {name: torch.cat([found[index][name] for index in sorted(found)]).numpy() for name in ("pred", "mask")}


def test_the_figure_is_that_of_all_images_together(root: Path, tmp_path: Path) -> None:
    found = engine_segmentation.segment(str(root), str(tmp_path))
    images = all_images(root)
    assert images["pred"].shape == (sum(engine_segmentation.LENGTHS.values()), 1, 16, 16)
    expected = evaluate("evaluate_segmentation", images, [], [], [], dataset="CASIA-B*")
    assert 0 < expected[TAG] < 1
    assert found["figures"][TAG] == pytest.approx(expected[TAG], rel=1e-12)
    # Two numbers a sequence: the images of a whole test set are never held together.
    assert found["kept"]["iou"].shape == (len(engine_segmentation.LENGTHS), 2)
    assert found["kept"]["iou"][:, 1].tolist() == list(engine_segmentation.LENGTHS.values())
    (result,) = (tmp_path / "results").iterdir()
    assert json.loads(result.read_text())["figures"] == found["figures"]


def test_several_processes_give_the_figure_of_one(
    root: Path, tmp_path: Path, in_processes: Callable[..., list[dict[str, Any]]]
) -> None:
    """Two batches for three processes: one of them has nothing to do."""
    expected = engine_segmentation.segment(str(root), str(tmp_path / "one"))
    job = {"root": str(root), "output": str(tmp_path / "many")}
    first, *others = (one["segment"] for one in in_processes({"segment": job}, 3))
    assert first["figures"] == expected["figures"]
    assert torch.equal(first["kept"]["iou"], expected["kept"]["iou"])
    assert not any(other["figures"] or other["kept"] for other in others)


def test_sums_of_sequences_have_the_mean_of_their_images() -> None:
    rng = np.random.default_rng(2)
    images = {"pred": rng.random((9, 1, 4, 4)) > 0.5, "mask": rng.random((9, 1, 4, 4)) > 0.5}
    assert mean_iou(sequence_iou(images, [4, 2, 3])) == pytest.approx(mean_iou(images), rel=1e-12)
    with pytest.raises(ValueError, match="9 rows for 8 frames"):
        sequence_iou(images, [4, 4])
    with pytest.raises(ValueError, match="expected a finite number"):
        mean_iou({"iou": np.array([[np.nan, 2.0]])})


def test_rows_of_frames_where_rows_of_sequences_belong_are_an_error(root: Path) -> None:
    from opengait.data.dataset import GaitDataset
    from opengait.data.loader import test_loader
    from opengait.data.transforms import build_transforms

    config = engine_segmentation.segmentation_config(root)
    dataset = GaitDataset(config["data_cfg"], training=False)
    loader = test_loader(dataset, config["evaluator_cfg"]["sampler"], frames_per_batch=6)
    model = build_model(config["model_cfg"])
    transforms = build_transforms(config["evaluator_cfg"]["transform"])
    with pytest.raises(ValueError, match="'mask' has 5 rows for 1 sequences"):
        embed(model, loader, transforms, len(dataset), device=torch.device("cpu"))
