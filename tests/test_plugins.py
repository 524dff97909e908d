"""Networks, losses, transforms, backbones and protocols from outside the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from gait_folder import tiny_experiment, write_gait_folder

from opengait import Config, ConfigError, cli, engine, load_config, plugins
from opengait import main as program
from opengait.engine.checkpoint import load_checkpoint
from opengait.engine.preflight import preflight
from opengait.evaluation import protocol as protocols

PROJECT_ROOT = Path(__file__).resolve().parent.parent

# As model files of the field are written: relative imports, no decorator, the hooks of the reference's base class.
NETWORK = """
import torch
from torch import nn, optim

from ..base_model import BaseModel
from ..modules import HorizontalPoolingPyramid, PackSequenceWrapper, SeparateFCs, SetBlockWrapper
from plugin_numbers import FIRST_BIAS


class Stem(nn.Module):
    def __init__(self, in_channels, channels=4):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 5, 4, 2)

    def forward(self, x):
        return torch.relu(self.conv(x))


class MyNet(BaseModel):
    def __init__(self, *args, **kargs):
        super().__init__(*args, **kargs)
        self.msg_mgr.log_info("MyNet is 100% built")

    def build_network(self, model_cfg):
        self.Backbone = SetBlockWrapper(self.get_backbone(model_cfg["backbone_cfg"]))
        self.TP = PackSequenceWrapper(torch.max)
        self.HPP = HorizontalPoolingPyramid([4])
        self.Head = SeparateFCs(4, 4, model_cfg["out"])

    def init_parameters(self):
        super().init_parameters()
        nn.init.constant_(self.Backbone.forward_block.conv.bias, FIRST_BIAS)

    def get_optimizer(self, optimizer_cfg):
        slow = list(self.Backbone.parameters())
        groups = [{"params": slow, "lr": optimizer_cfg["stem_lr"]}, {"params": self.Head.parameters()}]
        return getattr(optim, optimizer_cfg["solver"])(groups, lr=optimizer_cfg["lr"])

    def get_scheduler(self, scheduler_cfg):
        return optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: scheduler_cfg["decay"] ** step)

    def inputs_pretreament(self, inputs):
        seqs, labs, typs, vies, seqL = inputs
        trfs = self.trainer_trfs if self.training else self.evaluator_trfs
        ipts = [torch.stack([torch.from_numpy(trf(fra)) for fra in seq]) for trf, seq in zip(trfs, seqs)]
        return ipts, labs, typs, vies, seqL

    def forward(self, inputs):
        ipts, labs, typs, vies, seqL = inputs
        sils = ipts[0].unsqueeze(1)
        embed = self.Head(self.HPP(self.TP(self.Backbone(sils), seqL, options={"dim": 2})[0]))
        if self.training:
            self.msg_mgr.writer.add_scalar("mine/brightness", sils.mean(), self.iteration)
        return {
            "training_feat": {"spread": {"embeddings": embed, "labels": labs}},
            "visual_summary": {},
            "inference_feat": {"embeddings": embed},
        }
"""
REST = """
import torch
from opengait.modeling.losses.base import BaseLoss, gather_and_scale_wrapper


class SpreadLoss(BaseLoss):
    def __init__(self, reach, loss_term_weight=1.0):
        super().__init__(loss_term_weight)
        self.reach = reach

    @gather_and_scale_wrapper
    def forward(self, embeddings, labels):
        loss = torch.relu(self.reach - embeddings.std(0)).mean()
        self.info.update({"loss": loss.detach(), "seen": torch.tensor(float(len(labels)))})
        return loss, self.info


class HalfSize:
    on_device = True

    def __init__(self, divsor=255.0):
        self.divsor = divsor

    def __call__(self, frames, draws):
        return frames[..., ::2, ::2].float() / self.divsor

    def output_size(self, height, width):
        return height // 2, width // 2
"""
PROTOCOL = """
datasets: [Anything]
title: my corridor
protocols:
  - eval_func: evaluate_corridor
    name: bags against plain walks
    official: false
    gallery: {types: [nm-01]}
    conditions:
      BAG: {types: [bg-01]}
    figures:
      - {measure: Rank-1, tag: "{condition}@R1"}
"""


NETWORKS = "from opengait import BaseModel\n\n\nclass {}(BaseModel):\n    pass\n\n\n"


def experiment(folder: Path, **sections: Any) -> dict[str, Any]:
    tree = tiny_experiment(folder)
    transform = [{"type": "HalfSize"}]
    tree["model_cfg"] = {"model": "MyNet", "backbone_cfg": {"type": "Stem", "in_channels": 1}, "out": 3}
    tree["loss_cfg"] = {"type": "SpreadLoss", "log_prefix": "spread", "reach": 2.0}
    tree["optimizer_cfg"] = {"solver": "SGD", "lr": 0.1, "stem_lr": 0.01}
    tree["scheduler_cfg"] = {"decay": 0.5}
    tree["trainer_cfg"]["transform"] = tree["evaluator_cfg"]["transform"] = transform
    tree["evaluator_cfg"] |= {"protocol": "corridor.yaml", "eval_func": "evaluate_corridor"}
    return {**tree, **sections}


@pytest.fixture(autouse=True)
def own_registries(monkeypatch, tmp_path):
    """What a test registers ends with it."""
    for registry in plugins.REGISTRIES:
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(protocols, "_REGISTERED", {})
    monkeypatch.setenv("OPENGAIT_CACHE", str(tmp_path / "cache"))
    plugins.load_installed.cache_clear()
    yield
    plugins.load_installed.cache_clear()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A data set, `code/` with the plugins, `corridor.yaml` and `experiment.yaml`, which names no plugin."""
    write_gait_folder(tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mynet.py").write_text(NETWORK)
    (tmp_path / "code" / "plugin_numbers.py").write_text("FIRST_BIAS = 0.25\n")
    (tmp_path / "code" / "rest.py").write_text(REST)
    (tmp_path / "corridor.yaml").write_text(PROTOCOL)
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment(tmp_path)))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return tmp_path


def with_plugins(folder: Path, *names: str, **changes: Any) -> Path:
    path = folder / "with-plugins.yaml"
    path.write_text(yaml.safe_dump({"_base_": "experiment.yaml", "plugins": list(names), **changes}))
    return path


def opengait(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["opengait", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_a_research_file_trains_and_tests_from_the_command_line(folder, monkeypatch, capsys):
    config, given = str(folder / "experiment.yaml"), []
    for name in ("mynet.py", "rest.py"):
        given += ["--plugin", os.path.relpath(folder / "code" / name)]
    assert opengait(monkeypatch, "check", config, *given) == 0, capsys.readouterr()
    assert "protocol: my corridor; bags against plain walks" in capsys.readouterr().out
    assert opengait(monkeypatch, "train", config, *given, "--device", "cpu") == 0
    printed = capsys.readouterr().err
    assert "MyNet is 100% built" in printed
    assert "spread_seen=4.0000" in printed
    assert "learning_rate=0.0025" in printed  # the stem's rate after two halvings
    run = Path("output/CASIA-B/MyNet/tiny")
    state = load_checkpoint(run / "checkpoints" / "tiny-00002.pt")
    assert [len(group["params"]) for group in state["optimizer"]["param_groups"]] == [2, 1]
    assert torch.allclose(state["model"]["Backbone.forward_block.conv.bias"], torch.tensor(0.25), atol=0.1)
    assert "mine/brightness" in tags(run)
    assert opengait(monkeypatch, "test", config, *given, "--device", "cpu") == 0
    result = json.loads((run / "results" / "CASIA-B-tiny-00002.json").read_text())
    assert result["protocol"].startswith("my corridor; bags against plain walks")
    assert list(result["figures"]) == ["scalar/test_accuracy/BAG@R1"]
    fields_form = ["--cfgs", config, "--phase", "test", "--device", "cpu", "--iter", "2", *given]
    assert program.main(fields_form) == 0


def tags(run: Path) -> list[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "summary"))
    events.Reload()
    return events.Tags()["scalars"]


def test_plugins_of_a_config_are_seen_from_it_and_stay_with_the_run(folder):
    config = load_config(with_plugins(folder, "code/mynet.py", "code/rest.py"))
    assert config.plugins == [str(folder / "code" / name) for name in ("mynet.py", "rest.py")]
    assert config.evaluator_cfg.protocol == str(folder / "corridor.yaml")
    result = engine.train(config, device="cpu")
    state = load_checkpoint(result.checkpoint)
    assert state["config"]["plugins"] == config.plugins
    assert load_config(result.folder / "config.yaml").to_dict() == config.to_dict()

    for registry in plugins.REGISTRIES:  # as in a program that has only the checkpoint
        registry._entries.pop("MyNet", None)
    again = Config.from_dict(state["config"])
    assert engine.test(again, device="cpu")
    assert not [finding for finding in preflight(again) if finding.level == "error"]


def test_plugins_of_base_files_and_of_the_command_line_add_up(folder):
    with_plugins(folder, "code/mynet.py")
    child = folder / "code" / "child.yaml"
    child.write_text(yaml.safe_dump({"_base_": "../with-plugins.yaml", "plugins": ["rest.py", "mynet.py"]}))
    names = [str(folder / "code" / name) for name in ("mynet.py", "rest.py")]
    assert load_config(child).plugins == names
    (folder / "code" / "third.py").write_text("class Third:\n    def __call__(self, array):\n        return array\n")
    given = load_config(child, plugins=["../code/third.py", "../code/rest.py"])
    assert given.plugins == [*names, str(folder / "code" / "third.py")]
    assert "Third" in plugins.TRANSFORMS


def test_a_module_and_a_protocol_file_are_plugins_too(folder, monkeypatch):
    package = folder / "elsewhere" / "mylab_gait"
    package.mkdir()
    (package / "__init__.py").write_text("from mylab_gait.nets import Twin\n")
    (package / "nets.py").write_text(NETWORKS.format("Twin") + NETWORKS.format("Unoffered"))
    plugins.load_plugin("mylab_gait")
    assert "Twin" in plugins.MODELS
    assert "Unoffered" not in plugins.MODELS
    plugins.load_plugin(str(folder / "corridor.yaml"))
    assert "evaluate_corridor" in protocols.protocol_functions()
    title, found = protocols.find_protocol("evaluate_corridor", "Anything")
    assert (title, found.name) == ("my corridor", "bags against plain walks")


def test_installed_packages_announce_plugins(folder, monkeypatch):
    site = folder / "site"
    info = site / "mylab-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mylab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[opengait.plugins]\nnets = mylab_installed\none = mylab_installed_two:Second\nbroken = mylab_broken\n"
    )
    (site / "mylab_installed.py").write_text(NETWORKS.format("Installed"))
    (site / "mylab_installed_two.py").write_text(NETWORKS.format("Second"))
    (site / "mylab_broken.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(str(site))
    config = load_config(with_plugins(folder, "code/mynet.py", "code/rest.py"))
    assert {"Installed", "Second"} <= set(plugins.MODELS.names())
    (warning,) = config.warnings
    assert "broken = mylab_broken: ModuleNotFoundError" in str(warning)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"plugin .*broken\.py: no such file"),
        ("class MyNet(:\n", r"broken\.py:1: invalid syntax"),
        ("import torch\n\nimport nothing_here\n", r"broken\.py:3: ModuleNotFoundError: No module"),
        (NETWORKS.format("GaitSet"), "model 'GaitSet' is built in already"),
        (NETWORKS.format("MyNet"), r"registered already, by .*mynet\.py"),
        ("class BaseSilTransform:\n    def __call__(self, x):\n        pass\n", "'BaseSilTransform' is built in"),
        (
            "from opengait import BaseModel\nclass Own(BaseModel):\n    def train_step(self, loss):\n        pass\n",
            r"broken\.py:2: Own overrides methods that are not called here:\n  train_step: .* before_iteration",
        ),
    ],
)  # fmt: skip
def test_a_plugin_that_cannot_be_used_is_one_clear_message(folder, source, message):
    if source is not None:
        (folder / "code" / "broken.py").write_text(source)
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(with_plugins(folder, "code/mynet.py", "code/rest.py", "code/broken.py"))
    assert len(raised.value.problems) == 1
    assert raised.value.problems[0].key == "plugins.2"
    assert raised.value.problems[0].file.endswith("with-plugins.yaml")


def test_names_that_a_broken_plugin_would_have_defined_are_no_problems_of_their_own(folder):
    (folder / "code" / "mynet.py").write_text("import nothing_here\n")
    with pytest.raises(ConfigError) as raised:
        load_config(with_plugins(folder, "code/mynet.py", "code/rest.py"))
    assert [problem.key for problem in raised.value.problems] == ["plugins.0"]


def test_a_sampler_and_a_function_on_arrays(folder):
    (folder / "code" / "more.py").write_text(
        "from opengait.data.samplers import TripletSampler\n"
        "from opengait.registry import TRANSFORMS\n\n\n"
        "class EverSameSampler(TripletSampler):\n"
        "    def batch(self, iteration):\n"
        "        return super().batch(0)\n\n\n"
        "@TRANSFORMS.register\n"
        "def halved(frames):\n"
        "    assert frames.max() > 1, 'transformed twice'\n"
        "    return frames[:, ::2, ::2] / 255.0\n"
    )
    path = with_plugins(folder, "code/mynet.py", "code/rest.py", "code/more.py")
    config = load_config(path, ["trainer_cfg.sampler.type=EverSameSampler", "trainer_cfg.transform=[{type: halved}]"])
    assert engine.train(config, device="cpu").iteration == 2


def test_a_missing_file_or_module_names_the_nearest(folder):
    with pytest.raises(plugins.PluginError, match=r"did you mean '.*mynet\.py'"):
        plugins.load_plugin(str(folder / "code" / "mynets.py"))
    with pytest.raises(plugins.PluginError, match="no module of that name"):
        plugins.load_plugin("mynet_of_nobody")
    with pytest.raises(ConfigError, match="expected a list of files or modules, found"):
        load_config(folder / "experiment.yaml", {"plugins": "code/mynet.py"})


def test_a_changed_file_takes_the_place_of_its_earlier_form(folder):
    path = folder / "code" / "mynet.py"
    plugins.load_plugin(str(path))
    first = plugins.MODELS.get("MyNet")
    plugins.load_plugin(str(path))
    assert plugins.MODELS.get("MyNet") is first
    path.write_text(NETWORK.replace('options={"dim": 2}', "options={'dim': 2}"))
    plugins.load_plugin(str(path))
    assert plugins.MODELS.get("MyNet") is not first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "absent.yaml"}, r"evaluator_cfg.protocol: .*absent.yaml: no such protocol file"),
        ({"protocol": "experiment.yaml"}, "not a protocol file"),
        (
            {"eval_func": "evaluate_Gait3D"},
            r"unknown evaluation function .*; known: evaluate_corridor",
        ),
    ],
)
def test_mistakes_with_a_protocol_file(folder, changes, message):
    path = with_plugins(folder, "code/mynet.py", "code/rest.py", evaluator_cfg=changes)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


@pytest.mark.slow
def test_every_process_loads_the_plugins(folder):
    config = with_plugins(folder, "code/mynet.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(PROJECT_ROOT / "opengait" / "main.py"), "--cfgs", str(config), "--phase", "train"]
    command += ["--plugin", "../code/rest.py", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT_ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "spread_seen=4.0000" in ended.stderr  # the decorated loss sees the batch of both processes
