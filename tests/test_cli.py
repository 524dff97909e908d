"""The command line: each verb once in miniature, its exit status, and what it says of a wrong command."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from gait_folder import write_experiment, write_gait_folder

from opengait import cli, demo, engine
from opengait import main as program
from opengait.engine.hooks import NonFiniteError
from opengait.engine.trainer import TrainResult


@dataclass(frozen=True)
class Ended:
    """What a command left behind: exit status, standard output and standard error."""

    status: int
    out: str
    err: str


@pytest.fixture
def opengait(monkeypatch, capsys, tmp_path) -> Callable[..., Ended]:
    """Runs `opengait <arguments>` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENGAIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")  # so that messages in boxes are not broken inside a phrase

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["opengait", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> str:
    folder = write_gait_folder(tmp_path_factory.mktemp("gait"))
    return str(write_experiment(folder))


def test_train_check_and_test(opengait, experiment):
    checked = opengait("check", experiment)
    assert checked.status == 0, checked.err
    assert "info: one training batch of 4 sequences: loss" in checked.out

    trained = opengait("train", experiment, "--device", "cpu", "--log-to-file", "--set", "trainer_cfg.log_iter=2")
    assert trained.status == 0, trained.err
    assert "Iteration 00002" in trained.err
    run = Path("output/CASIA-B/GaitSet/tiny")
    assert (run / "checkpoints" / "tiny-00002.pt").is_file()
    assert (run / "config.yaml").is_file()
    assert len(list((run / "logs").iterdir())) == 1

    tested = opengait("test", experiment, "--device", "cpu")
    assert tested.status == 0, tested.err
    assert "Rank-1 by probe view" in tested.out
    result = json.loads((run / "results" / "CASIA-B-tiny-00002.json").read_text())
    assert result["protocol"].startswith("CASIA-B; single-view gallery")

    by_path = opengait("test", experiment, "--checkpoint", str(run / "checkpoints" / "tiny-00002.pt"))
    assert by_path.status == 0, by_path.err
    assert json.loads((run / "results" / "CASIA-B-tiny-00002.json").read_text()) == result

    untrained = opengait("test", experiment, "--iter", "0", "--set", "evaluator_cfg.save_name=untrained")
    assert untrained.status == 0
    assert "FRESHLY INITIALISED" in untrained.err

    resumed = opengait("train", experiment, "--resume", "auto")
    assert resumed.status == 0
    assert "going on after iteration 2" in resumed.err
    assert "Iteration 0000" not in resumed.err


def test_the_fields_own_form_shares_runs_with_the_verbs(opengait, experiment, capsys):
    assert program.main(["--cfgs", experiment, "--phase", "train", "--log_to_file", "--local_rank", "0"]) == 0
    assert program.main(["--cfgs", experiment, "--phase", "test", "--iter", "2"]) == 0
    capsys.readouterr()
    assert opengait("test", experiment).status == 0


def test_a_process_that_fails_alone_is_heard(experiment, monkeypatch, capsys):
    monkeypatch.setattr(program, "GRACE_S", 0.0)
    monkeypatch.setenv("RANK", "1")
    assert program.main(["--cfgs", experiment, "--device", "cpu", "--set", "data_cfg.dataset_root=/nowhere"]) == 2
    assert capsys.readouterr().err.startswith("rank 1: /nowhere: no such folder")


def test_pack(opengait, experiment):
    root = Path(experiment).parent / "data"
    packed = opengait("pack", str(root), "--out", "packed")
    assert packed.status == 0, packed.err
    assert "6 subjects, 48 sequences, 384 frames; silhouettes 1.6 MB" in packed.out
    checked = opengait("check", experiment, "--no-batch", "--set", "data_cfg.dataset_root=packed")
    assert checked.status == 0, checked.out
    whole = opengait("check", "packed")
    assert whole.status == 0
    assert "6 subjects, 48 sequences, 384 frames; all checksums match" in whole.out
    assert opengait("check", "packed", "--phase", "train").status == 2
    tree = opengait("check", str(root))
    assert tree.status == 2
    assert "no packed store" in tree.out
    again = opengait("pack", str(root), "--out", "packed")
    assert again.status == 2
    assert "holds a packed store already" in again.err
    assert opengait("pack", str(root), "--out", "packed", "--force", "--workers", "1").status == 0
    assert opengait("pack", str(root), "--out", "other", "--use", "1").status == 2


def test_synthesize(opengait):
    arguments = ["synthesize", "--out", "walkers", "--subjects", "2", "--train-subjects", "1", "--type", "nm-01"]
    arguments += ["--view", "000", "--frames", "5", "5", "--workers", "1"]
    made = opengait(*arguments)
    assert made.status == 0, made.err
    assert "1 training and 1 test subjects, 2 sequences (2 written now, 10 frames" in made.out
    assert Path("walkers/001/nm-01/000/000.pkl").is_file()
    assert json.loads(Path("walkers/partition.json").read_text()) == {"TRAIN_SET": ["001"], "TEST_SET": ["002"]}
    assert "0 written now" in opengait(*arguments).out
    other = opengait(*arguments, "--seed", "1")
    assert other.status == 2
    assert "made with other arguments" in other.err


def test_a_raw_look_alike_is_made_and_prepared(opengait):
    arguments = ["--subjects", "2", "--type", "nm-01", "--type", "nm-05", "--view", "090", "--frames", "5", "5"]
    fault = ["--fault", "damaged image"]
    made = opengait("synthesize-raw", "CASIA-B", "--out", "raw", "--archives", *arguments, *fault)
    assert made.status == 0, made.err
    assert "1 training and 1 test subjects, 4 sequences, 20 frames; faults put in: 1" in made.out
    assert "damaged image: 07" in made.out
    assert [path.name for path in Path("raw").iterdir()] == ["GaitDatasetB-silh.zip"]
    prepared = opengait("prepare", "CASIA-B", "--raw", "raw", "--out", "data", "--workers", "1")
    assert prepared.status == 0, prepared.err
    assert "2 subjects, 4 sequences, 19 frames" in prepared.out
    clean = opengait("synthesize-raw", "CASIA-B", "--out", "clean", *arguments, "--fault", "none")
    assert "faults put in: 0" in clean.out
    again = opengait("synthesize-raw", "CASIA-B", "--out", "clean", *arguments, *fault)
    assert again.status == 2
    assert "not empty" in again.err
    wrong = opengait("synthesize-raw", "GREV", "--out", "other")
    assert wrong.status == 2
    assert "did you mean 'GREW'" in wrong.err


def test_synthesize_other_modalities(opengait):
    arguments = ["--subjects", "2", "--type", "nm-01", "--view", "090", "--frames", "5", "5", "--workers", "1"]
    made = opengait("synthesize", "--out", "walkers", "--modality", "silhouettes", "--modality", "smpl", *arguments)
    assert made.status == 0, made.err
    found = sorted(path.name for path in Path("walkers/001/nm-01/090").iterdir())
    assert found == ["sils-090.pkl", "smpls-090.pkl"]
    wrong = opengait("synthesize", "--out", "others", "--modality", "casia-b*", *arguments)
    assert wrong.status == 2
    assert "did you mean 'casiab*'?" in wrong.err


def test_demo(opengait, monkeypatch):
    monkeypatch.setattr(demo, "VIEWS", ("000", "090"))
    monkeypatch.setattr(demo, "FRAMES", (5, 6))
    shown = opengait("demo", "--train-subjects", "2", "--test-subjects", "2", "--iterations", "1", "--device", "cpu")
    assert shown.status == 0, shown.err
    for name in ("GaitSet, trained", "GaitSet, untrained", "gait energy images", "chance", "NM", "BG", "CL"):
        assert name in shown.out
    assert "2 test subjects, none of the 2 trained on; seed 0; 1 iterations" in shown.out
    report = json.loads(Path("output/demo/demo.json").read_text())
    assert report["rank1"]["chance"] == {"NM": 50.0, "BG": 50.0, "CL": 50.0}


def test_bench(opengait, experiment):
    shown = opengait("bench", experiment, "--iterations", "1", "--device", "cpu", "--json", "bench.json")
    assert shown.status == 0, shown.err
    for name in ("read", "collate", "copy", "transform", "forward", "loss", "backward", "optimiser", "slowest: "):
        assert name in shown.out
    assert "generated walkers" not in shown.out
    assert json.loads(Path("bench.json").read_text())["sequences"] == 4
    refused = opengait("bench", experiment, "--models")
    assert refused.status == 2
    assert "takes no CONFIG" in refused.err


def test_check_tells_everything_it_found(opengait, experiment):
    found = opengait(
        "check", experiment, "--set", "evaluator_cfg.restore_hint=3", "--set", "trainer_cfg.restore_hint=1"
    )
    assert found.status == 2
    assert "error: trainer_cfg.restore_hint" in found.out
    assert "warning: evaluator_cfg.restore_hint 3 is never written" in found.out
    assert "info: training data: 4 subjects, 32 sequences of 8 to 8 frames" in found.out
    assert "one training batch" not in found.out


def test_check_of_one_phase(opengait, experiment):
    of_training = opengait(
        "check", experiment, "--phase", "train", "--no-batch", "--set", "trainer_cfg.with_test=false"
    )
    assert of_training.status == 0
    assert "test data" not in of_training.out
    assert opengait("check", experiment, "--phase", "test", "--no-batch").status == 2  # nothing has been trained


def test_a_check_leaves_nothing_behind(opengait, experiment):
    assert opengait("check", experiment).status == 0
    assert [path.name for path in Path().iterdir()] == ["cache"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer_cfg.total_iter", ["override 'trainer_cfg.total_iter'", "section.key=value"]),
        ("=3", ["section.key=value"]),
        ("trainer_cfg..seed=3", ["section.key=value"]),
        ("trainer_cfg.seed=[1", ["override 'trainer_cfg.seed=[1'", "not valid YAML"]),
        ("trainer_cfg.seed=!!python/name:os.system", ["not allowed"]),
        ("trainer_cfg.transform.1.type=BaseSilTransform", ["trainer_cfg.transform is a list", "0 to 0", "'1'"]),
        ("trainer_cfg.sede=3", ["unknown key 'sede'", "did you mean 'seed'?"]),
    ],
)
def test_wrong_overrides(opengait, experiment, override, words):
    refused = opengait("train", experiment, "--set", override)
    assert refused.status == 2
    assert "Traceback" not in refused.err
    for word in words:
        assert word in refused.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian", "x.yaml"], ["trian", "train"]),
        (["train"], ["CONFIG"]),
        (["train", "x.yaml", "--resume", "maybe"], ["maybe", "auto"]),
        (["train", "x.yaml"], ["x.yaml", "no such file"]),
        (["train", "configs/gaitset/gaitset_dem.yaml"], ["did you mean 'configs/gaitset/gaitset_demo.yaml'?"]),
        (["train", "gaitset/gaitset.yaml", "--device", "gpu"], ["unknown device 'gpu'", "cuda"]),
        (["train", "gaitset/gaitset.yaml"], ["your_path", "dataset_root"]),
        (["test", "gaitset/gaitset.yaml", "--iter", "many"], ["--iter", "valid integer"]),
        (["check", "gaitset/gaitset.yaml", "--phase", "both"], ["both", "train"]),
        (["synthesize", "--out", "w", "--subjects", "0"], ["subjects", "0"]),
        (
            ["synthesize", "--out", "w", "--subjects", "2", "--view", "091"],
            ["unknown view '091'", "did you mean '090'?"],
        ),
        (["synthesize", "--out", "w", "--subjects", "2", "--type", "nm-1"], ["did you mean 'nm-01'?"]),
        (["synthesize", "--out", "w", "--subjects", "2", "--motion", "walks.npz"], ["walks.npz"]),
        (["demo", "--test-subjects", "-1"], ["-1"]),
        (["bench", "--iterations", "0"], ["iterations 0", "at least 1"]),
    ],
    ids=" ".join,
)
def test_wrong_commands(opengait, arguments, words):
    refused = opengait(*arguments)
    said = refused.out + refused.err
    assert refused.status == 2, said
    assert "Traceback" not in said
    for word in words:
        assert word in said
    assert not list(Path().rglob("*.pkl"))


def test_mistakes_of_the_program_keep_their_traceback(opengait, experiment, monkeypatch):
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("a fault of the program")

    monkeypatch.setattr(engine, "train", broken)
    monkeypatch.setattr(sys, "argv", ["opengait", "train", experiment])
    with pytest.raises(RuntimeError, match="a fault of the program"):
        cli.main()


@pytest.mark.parametrize(
    ("error", "is_shown_alone"), [(NonFiniteError("not finite"), True), (ZeroDivisionError("division by zero"), False)]
)
def test_of_arithmetic_only_a_run_that_is_not_finite_is_a_mistake(
    opengait, experiment, monkeypatch, capsys, error, is_shown_alone
):
    def fails(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(engine, "train", fails)
    if is_shown_alone:
        assert opengait("train", experiment).err == "not finite\n"
        assert program.main(["--cfgs", experiment]) == 2
        return
    monkeypatch.setattr(sys, "argv", ["opengait", "train", experiment])
    with pytest.raises(ZeroDivisionError):
        cli.main()
    with pytest.raises(ZeroDivisionError):
        program.main(["--cfgs", experiment])


def test_a_checkpoint_is_given_by_number_or_by_path(opengait, experiment):
    refused = opengait("test", experiment, "--iter", "2", "--checkpoint", "some.pt")
    assert refused.status == 2
    assert "iteration 2 and checkpoint some.pt are both given" in refused.err


def test_traceback_on_request(opengait, monkeypatch):
    monkeypatch.setenv("OPENGAIT_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["opengait", "train", "x.yaml"])
    with pytest.raises(ValueError, match="no such file"):
        cli.main()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_ended_by_a_signal_has_its_status(opengait, experiment, monkeypatch, number):
    stopped = TrainResult(iteration=1, folder=Path("output"), stop_signal=int(number))
    monkeypatch.setattr(engine, "train", lambda *arguments, **options: stopped)
    assert opengait("train", experiment).status == 128 + number
    assert program.main(["--cfgs", experiment]) == 128 + number


def test_help_names_every_verb(opengait):
    shown = opengait("--help")
    assert shown.status == 0
    for verb in ("train", "test", "check", "bench", "synthesize", "synthesize-raw", "prepare", "demo"):
        assert verb in shown.out
        assert opengait(verb, "--help").status == 0
