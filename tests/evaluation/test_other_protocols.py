"""Protocol files are whole, and the ones beside CASIA-B's give the golden figures or those of a small known case."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from casia_layout import subject_embeddings

from opengait.evaluation import eval_funcs, evaluate, run_protocol
from opengait.evaluation.distances import Distances
from opengait.evaluation.memory import parse_memory
from opengait.evaluation.protocol import FOLDER, read_protocols, shipped_protocols
from opengait.evaluation.reranking import Reranked
from opengait.evaluation.selection import Selector, SequenceNames

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


def test_ccpg_tells_three_view_rules_each_under_its_own_name() -> None:
    types = ["U0_D0_BG", "U0_D0", "U0_D3", "U1_D0", "U1_D1", "U2_D2", "U3_D3"]
    rows = [(f"{s:03d}", t, f"cam{c}_{i}") for s in range(6) for t in types for c in range(3) for i in range(2)]
    labels, kinds, views = (list(column) for column in zip(*rows, strict=True))
    embeddings = subject_embeddings(labels, noise=1.0)
    found = run_protocol("evaluate_CCPG", embeddings, labels, kinds, views)
    beside = {other.label: other for other in found.beside}
    assert list(beside) == ["identical cameras excluded", "re-identification"]
    assert beside["re-identification"].figures.keys() == {
        f"{ACCURACY}{condition}-{measure}"
        for condition in ("CL", "UP", "DN", "BG")
        for measure in ("Rank-1", "mAP", "mINP")
    }
    hits, precisions = [], []
    for i, kind in enumerate(kinds):
        if kind == "U3_D3":
            gallery = [j for j, t in enumerate(kinds) if t == "U0_D3"]
            gallery = [j for j in gallery if not (labels[j] == labels[i] and views[j][:4] == views[i][:4])]
            apart = np.sqrt(((embeddings[gallery] - embeddings[i]) ** 2).sum(axis=1)).mean(axis=1)
            own = [labels[gallery[j]] == labels[i] for j in np.argsort(apart)]
            places = np.flatnonzero(own) + 1
            hits.append(own[0])
            precisions.append(np.mean(np.arange(1, len(places) + 1) / places))
    told = beside["re-identification"].exact
    assert told[f"{ACCURACY}UP-Rank-1"] == pytest.approx(100 * np.mean(hits))
    assert told[f"{ACCURACY}UP-mAP"] == pytest.approx(100 * np.mean(precisions))
    names = [name for _, _, name in found.named_figures()]
    assert len(set(names)) == 3
    assert f"{ACCURACY}re-identification/UP-mAP" in [tag for tag, _, _ in found.named_figures()]


def test_oumvlp_tells_the_official_figure_and_the_filtered_one() -> None:
    rows = [(f"{s:05d}", t, v) for s in range(1, 13) for t in ("00", "01") for v in ("000", "030", "090")]
    rows = [row for row in rows if not (row[1:] == ("01", "030") and row[0] <= "00006")]
    labels, kinds, views = (list(column) for column in zip(*rows, strict=True))
    options = {"dataset": "OUMVLP"}
    embeddings = subject_embeddings(labels, noise=0.0)
    found = run_protocol("evaluate_indoor_dataset", embeddings, labels, kinds, views, **options)
    # At two of six pairs of views half of the probes have no gallery sequence.
    assert found.exact == {ACCURACY + "NM@R1": pytest.approx(100 * (1 - 0.5 * 2 / 6))}
    assert found.protocol.endswith("; official protocol")
    (filtered,) = found.beside
    assert filtered.figures == {ACCURACY + "NM@R1": 100.0}
    assert "not an official protocol" in filtered.protocol
    asked = run_protocol("evaluate_indoor_dataset", embeddings, labels, kinds, views, remove_no_gallery=True, **options)
    assert asked.figures == filtered.figures
    assert not asked.beside
    assert "probes without gallery left out" in asked.protocol


def test_grew_validation_is_named_as_what_it_is_and_refuses_subjects_of_the_training() -> None:
    rows = [(f"{s:05d}train", "00", f"video{v}") for s in range(8) for v in (3, 1, 2, 0)]
    labels, kinds, views = (list(column) for column in zip(*rows, strict=True))
    embeddings = subject_embeddings(labels, noise=0.01)
    found = run_protocol("GREW_validation", embeddings, labels, kinds, views, trained_on=["00100train"])
    assert (found.probes, found.gallery) == ({"all": 16}, {"all": 16})
    assert found.figures[ACCURACY + "Rank-1"] == 100
    assert "held-out training subjects" in found.protocol
    assert "not an official protocol" in found.protocol
    with pytest.raises(ValueError, match="1 of the 8 subjects of this test were trained on, such as '00003train'"):
        run_protocol("GREW_validation", embeddings, labels, kinds, views, trained_on=["00003train", "00100train"])
    assert "is not known" in run_protocol("GREW_validation", embeddings, labels, kinds, views).notes[0]


def test_first_sequences_of_a_subject_are_those_first_by_name() -> None:
    labels = ["b", "a", "a", "b", "a", "a"]
    names = SequenceNames.of(labels, ["2", "1", "2", "1", "1", "3"], ["x", "y", "x", "x", "x", "x"])
    assert Selector(first_of_subject=1).mask(names).tolist() == [False, False, False, True, True, False]
    assert Selector(first_of_subject=1, types=["2", "3"]).mask(names).tolist() == [
        True,
        False,
        True,
        False,
        False,
        False,
    ]
    assert Selector(after_first_of_subject=2).mask(names).tolist() == [False, False, True, False, False, True]


def test_reranked_figures_stand_beside_and_never_head() -> None:
    labels = [f"{i % 30:02d}" for i in range(120)]
    names = labels, ["01"] * 60 + ["02"] * 60, ["x"] * 120
    embeddings = subject_embeddings(labels, noise=0.7)
    plain = run_protocol("evaluate_real_scene", embeddings, *names, dataset="GREW")
    found = run_protocol("evaluate_real_scene", embeddings, *names, dataset="GREW", rerank=True)
    assert found.figures == plain.figures
    assert "; not re-ranked;" in found.protocol
    (beside,) = found.beside
    assert "; re-ranked;" in beside.protocol
    assert beside.figures.keys() == found.figures.keys()
    assert beside.exact != found.exact
    probes, gallery = np.arange(60, 120), np.arange(60)
    ((_, matrix),) = Reranked(Distances(embeddings), probes, gallery).rows(probes, gallery)
    first = [labels[j] == labels[60 + i] for i, j in enumerate(matrix.argmin(dim=1).tolist())]
    assert beside.exact[ACCURACY + "Rank-1"] == pytest.approx(100 * np.mean(first))
    with pytest.raises(ValueError, match="takes no re-ranking: it needs one gallery"):
        run_protocol("evaluate_indoor_dataset", embeddings, *names, dataset="CASIA-B", rerank=True)


def test_scoliosis_classes_are_judged_as_by_hand() -> None:
    types = ["negative", "Neutral", "positive", "positive", "negative"]
    given = [0, 1, 2, 0, 1]
    logits = np.zeros((5, 3, 2), dtype=np.float32)
    logits[np.arange(5), given, 0] = 3
    logits[:, 0, 1] = 1
    found = run_protocol("evaluate_scoliosis", logits, [str(i) for i in range(5)], types, ["x"] * 5)
    assert found.figures == {
        "scalar/test_accuracy/": 3 / 5,
        "scalar/test_precision/": pytest.approx((1 / 2 + 1 / 2 + 1) / 3),
        "scalar/test_recall/": pytest.approx((1 / 2 + 1 + 1 / 2) / 3),
        "scalar/test_f1/": pytest.approx((1 / 2 + 2 / 3 + 2 / 3) / 3),
    }
    with pytest.raises(ValueError, match="type 'nm-01' names no class"):
        evaluate("evaluate_scoliosis", logits, list("abcde"), ["nm-01"] * 5, ["x"] * 5)
    with pytest.raises(ValueError, match=r"expected \[n, 3, p\]"):
        evaluate("evaluate_scoliosis", logits[:, :2], list("abcde"), types, ["x"] * 5)


def test_the_match_curve_starts_at_rank_1_and_rises() -> None:
    labels = [f"{i % 30:02d}" for i in range(90)]
    names = labels, ["01"] * 30 + ["02"] * 60, ["x"] * 90
    found = run_protocol("evaluate_real_scene", subject_embeddings(labels, noise=1.0), *names, dataset="GREW")
    curve = found.curves["all"]
    assert len(curve) == 30
    assert curve[0] == found.exact[ACCURACY + "Rank-1"]
    assert (np.diff(curve) >= 0).all()
    assert curve[-1] == 100


@pytest.mark.parametrize(
    ("size", "expected"), [("2GB", 2 << 30), ("1.5 MiB", 3 << 19), ("512k", 512 << 10), (4096, 4096), ("77", 77)]
)
def test_memory_is_read_as_people_write_it(size: str | int, expected: int) -> None:
    assert parse_memory(size) == expected


def test_no_size_is_told() -> None:
    for size in ("2 apples", "", "0GB", -5):
        with pytest.raises(ValueError, match="expected a size such as 2GB"):
            parse_memory(size)
