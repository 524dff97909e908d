"""Protocol files are whole, and the ones beside CASIA-B's give the golden figures or those of a small known case."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from casia_layout import subject_embeddings

from opengait.evaluation import eval_funcs, evaluate, run_protocol
from opengait.evaluation.protocol import FOLDER, read_protocols, shipped_protocols

ACCURACY = "scalar/test_accuracy/"


def test_every_protocol_file_is_valid_and_no_choice_is_ambiguous() -> None:
    assert len(shipped_protocols()) == len(list(FOLDER.glob("*.yaml"))) > 10
    chosen = [
        (protocol.eval_func, name, protocol.cross_view_gallery)
        for file in shipped_protocols()
        for protocol in file.protocols
        for name in file.datasets
    ]
    assert len(chosen) == len(set(chosen))
    assert {"evaluate_indoor_dataset", "evaluate_real_scene", "evaluate_Gait3D", "GREW_submission"} <= set(eval_funcs())


def test_faults_of_a_protocol_file_are_all_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "datasets: [Mine]\nprotocols:\n- {eval_func: evaluate_indoor_dataset, name: x, official: 3, "
        "view_rule: sideways, gallery: {type: [a]}, conditions: {NM: {types: [b]}}, figures: [{measure: Rank-0}]}\n"
    )
    with pytest.raises(ValueError, match=r"mine\.yaml: not a protocol file") as error:
        read_protocols(path)
    for key in ("official", "view_rule", "gallery.type", "figures.0.measure"):
        assert f"protocols.0.{key}:" in str(error.value)


@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_gait3d_figures_are_the_golden_ones(shared: Callable[[str], Path], metric: str) -> None:
    case = json.loads(shared("golden/eval/gait3d.json").read_text())
    embeddings = np.load(shared("golden/eval/gait3d.npz"))["embeddings"]
    names = case["labels"], case["types"], case["views"]
    options = {"dataset": "Gait3D", "metric": metric, "probe_set": case["PROBE_SET"]}
    found = run_protocol("evaluate_Gait3D", embeddings, *names, **options)
    assert found.figures == pytest.approx(case["results"][metric]["returned"], abs=1e-4)
    assert "1 of 43 probes have no gallery sequence of the subject and are left out" in found.notes[0]
    # The same lists under the two other names that read them.
    free = evaluate("evaluate_FreeGait", embeddings, *names, metric=metric, probe_set=case["PROBE_SET"])
    keys = {"-".join(key) for key in zip(*names, strict=True)}
    mini = evaluate("evaluate_CCGR_MINI", embeddings, *names, metric=metric, gallery_set=keys - set(case["PROBE_SET"]))
    assert free == mini == found.figures


def test_a_list_that_is_needed_is_asked_for() -> None:
    names = ["1", "1"], ["a", "b"], ["x", "y"]
    embeddings = np.zeros((2, 3, 1))
    with pytest.raises(ValueError, match="needs probe_set"):
        evaluate("evaluate_Gait3D", embeddings, *names)
    with pytest.raises(ValueError, match=r"none of the 1 names in probe_set such as '9-a-x' .* such as '1-a-x'"):
        evaluate("evaluate_Gait3D", embeddings, *names, probe_set=["9-a-x"])


@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_grew_submission_is_the_golden_file(shared: Callable[[str], Path], metric: str, tmp_path: Path) -> None:
    case = json.loads(shared("golden/eval/grew_submission.json").read_text())
    embeddings = np.load(shared("golden/eval/grew_submission.npz"))["embeddings"]
    names = case["labels"], case["types"], case["views"]
    for _ in range(2):  # within one second: the second file does not replace the first
        returned = evaluate("GREW_submission", embeddings, *names, metric=metric, dataset="GREW", out_dir=tmp_path)
        assert list(returned) == ["submission"]
        assert Path(returned["submission"]).read_bytes() == case["results"][metric]["csv"].encode()
    assert len(list(tmp_path.glob("*.csv"))) == 2


def test_segmentation_is_the_golden_figure(shared: Callable[[str], Path]) -> None:
    case = np.load(shared("golden/eval/segmentation.npz"))
    figures = evaluate("evaluate_segmentation", {k: case[k] for k in ("pred", "mask")}, [], [], [], dataset="CASIA-B*")
    assert figures == {ACCURACY + "mIOU": pytest.approx(case["miou"].mean(), abs=1e-6)}


def test_segmentation_refuses_what_it_cannot_compare() -> None:
    mask = np.ones((2, 1, 4, 4), dtype=np.float32)
    for features, message in [
        (mask, "mapping with 'pred' and 'mask'"),
        ({"pred": mask}, "found: pred"),
        ({"pred": mask[:1], "mask": mask}, "expected the same"),
        ({"pred": mask * np.nan, "mask": mask}, "image 0 .* NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate("evaluate_segmentation", features, ["1"], ["a"], ["x"], dataset="CASIA-B")


def test_hid_submission_names_the_nearest_label_as_it_stands(tmp_path: Path) -> None:
    labels = [*(f"{s:05d}" for s in range(30) for _ in range(3)), *["probe"] * 30]
    truth = [*labels[:90], *labels[0:90:3]]
    views = [f"v{i}" for i in range(120)]
    embeddings = subject_embeddings(truth, noise=0.01)
    for rerank in (None, False, True):
        options = {"dataset": "HID", "rerank": rerank, "out_dir": tmp_path}
        found = run_protocol("HID_submission", embeddings, labels, ["0"] * 120, views, **options)
        assert found.submission is not None
        lines = found.submission.read_text().splitlines()
        assert lines == ["videoID,label", *(f"v{90 + i},{i:05d}" for i in range(30))]
        assert ("not re-ranked" in found.protocol) == (rerank is False)


def test_a_short_gallery_cuts_the_file_short_and_letters_are_refused(tmp_path: Path) -> None:
    names = ["0007", "0008", "probe"], ["01", "02", "03"], ["a", "b", "video"]
    embeddings = np.array([0.0, 5.0, 1.0]).reshape(3, 1, 1)
    found = run_protocol("GREW_submission", embeddings, *names, out_dir=tmp_path)
    assert found.submission is not None
    assert found.submission.read_text() == "videoId,rank1,rank2\nvideo,7,8\n"
    assert "2 sequences and a full file 20 ranks" in found.notes[0]
    with pytest.raises(ValueError, match="'7a' is not a number"):
        evaluate("GREW_submission", embeddings, ["7a", "8", "probe"], *names[1:], out_dir=tmp_path)


def test_real_scene_ranks_types_without_views() -> None:
    labels = [f"{s:05d}" for s in range(25)] * 2
    names = labels, ["01"] * 25 + ["02"] * 25, ["x"] * 50
    position = np.concatenate([np.arange(25), np.arange(25) + 1.3]).astype(np.float32)
    found = run_protocol("evaluate_real_scene", position.reshape(50, 1, 1), *names, dataset="GREW")
    # Every probe lies nearest to the next subject; the last two have fewer on that side.
    assert found.figures == {ACCURACY + "Rank-1": 4.0, ACCURACY + "Rank-5": 100.0}
    assert "not an official protocol" in found.protocol
    assert found.tables[0].columns == ("Rank-1", "Rank-5", "Rank-10", "Rank-20")


def test_casia_e_leaves_out_the_view_270() -> None:
    types = ["H-scene1-nm-1", "H-scene2-nm-1", "L-scene3_s-bg-2", "H-scene3-cl-1"]
    rows = [(f"{s:04d}", t, v) for s in range(4) for t in types for v in ("000", "090", "270")]
    labels, kinds, views = (list(column) for column in zip(*rows, strict=True))
    embeddings = subject_embeddings(labels, noise=0.0)
    embeddings[np.array(views) == "270"] = 0
    found = run_protocol("evaluate_indoor_dataset", embeddings, labels, kinds, views, dataset="CASIA-E")
    assert found.figures == {ACCURACY + f"{condition}@R1": 100.0 for condition in ("NM", "BG", "CL")}
    assert found.tables[0].columns == ("000", "090")


def test_sustech1k_counts_a_sequence_under_each_of_its_covariates() -> None:
    types = ["00-nm", "01-nm", "02-bg-cl", "03-nt"]
    rows = [(f"{s:04d}", t, v) for s in range(6) for t in types for v in ("000", "090", "180")]
    labels, kinds, views = (list(column) for column in zip(*rows, strict=True))
    found = run_protocol(
        "evaluate_indoor_dataset", subject_embeddings(labels, noise=0.0), labels, kinds, views, dataset="SUSTech1K"
    )
    assert found.probes == {"Normal": 18, "Bag": 18, "Clothing": 18, "Night": 18, "Overall": 54}
    assert set(found.figures.values()) == {100.0}
    assert [table.title.split()[0] for table in found.tables] == ["Rank-1", "Rank-5"]


def test_ccpg_cameras_are_the_start_of_the_view() -> None:
    types = ["U0_D0_BG", "U0_D0", "U0_D3", "U1_D0", "U1_D1", "U2_D2", "U3_D3"]
    rows = [(f"{s:03d}", t, f"cam{c}_{i}") for s in range(4) for t in types for c in range(3) for i in range(2)]
    labels, kinds, views = (list(column) for column in zip(*rows, strict=True))
    found = run_protocol("evaluate_CCPG", subject_embeddings(labels, noise=0.0), labels, kinds, views)
    assert found.tables[0].columns == ("cam0", "cam1", "cam2")
    assert found.figures == {ACCURACY + condition: 100.0 for condition in ("CL", "UP", "DN", "BG")}
    assert found.probes["CL"] == 48
    assert found.gallery["CL"] == 72
