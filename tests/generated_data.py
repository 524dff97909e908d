"""Generated walkers under the names of published data sets, for any config: few subjects, few frames."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opengait.engine.bench.data import PARSING_BESIDE_SMPL, files_before, frame_size, modalities_of, resized
from opengait.synthetic import synthesize

KINDS, VIEWS = ("nm-01", "nm-05", "bg-01", "cl-01"), ("000", "090")
SUBJECTS = 4
FRAMES = (5, 6)
MOST_CLASSES, NARROWER = 32, 8
WIDTHS = {"channels", "in_channels", "out_channels", "lateral_dim", "hidden_dim", "layers_cfg"}


@dataclass(frozen=True)
class Names:
    """How a data set names its sequences; `probe` is the pseudo-subject of hidden truth, as (label, type)."""

    types: tuple[str, ...]
    train: tuple[str, ...] = ("001", "002")
    test: tuple[str, ...] = ("075", "076")
    probe: tuple[str, str] | None = None
    lists_probes: bool = False


DATA_SETS = {
    "CASIA-B": Names(KINDS),
    "CASIA-B*": Names(KINDS),
    "Walkers": Names(KINDS),
    "OUMVLP": Names(("00", "01"), ("00001", "00003"), ("00002", "00004")),
    "GREW": Names(("01", "02"), ("00001train", "00002train"), ("00001", "00002"), probe=("probe", "03")),
    "HID2022": Names(("0", "1"), ("0000", "0001"), ("0500", "0501"), probe=("probe", "2")),
    "HID2023": Names(("0", "1"), (), ("00000", "00001"), probe=("probe", "2")),
    "Gait3D": Names(("camid0_videoid2", "camid9_videoid1"), ("0000", "0002"), ("0001", "0003"), lists_probes=True),
    "Gait3D-Parsing": Names(("camid0_videoid2", "camid9_videoid1"), ("0000", "0002"), ("0001", "0003"), None, True),
    "CASIA-E": Names(("H-scene1-nm-1", "H-scene2-nm-1", "H-scene2-bg-1", "H-scene2-cl-1"), test=("201", "202")),
    "CCPG": Names(
        ("U0_D0", "U0_D0_BG", "U0_D3", "U1_D0", "U1_D1", "U2_D2", "U3_D3"), ("000", "001"), ("100", "101")
    ),
    "SUSTech1K": Names(("00-nm", "01-nm", "01-cl", "02-bg"), ("0000", "0001"), ("0002", "0003")),
}  # fmt: skip


def narrow(tree: Any, key: str = "") -> Any:
    """model_cfg with an eighth of the channels and few classes; images keep their one or three channels."""
    if isinstance(tree, dict):
        return {name: narrow(value, name) for name, value in tree.items()}
    if isinstance(tree, list):
        return [narrow(value, key) for value in tree]
    if key == "class_num":
        return min(tree, MOST_CLASSES)
    if key not in WIDTHS:
        return tree
    if isinstance(tree, str):
        return re.sub(r"(?<=C-)\d+", lambda found: str(int(found[0]) // NARROWER), tree)
    return tree // NARROWER if tree > NARROWER else tree


class GeneratedData:
    """Data sets in a folder; each is made when it is asked for the first time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def training(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """`data_cfg` entries that lead to a data set for the config."""
        modalities = modalities_of(config)
        if modalities == ("unlabelled",):
            return _entries(self.walkers(modalities))
        size = frame_size(config, "trainer_cfg") if modalities in (("silhouettes",), ("parsing",)) else None
        return _entries(self.named(config["data_cfg"]["dataset_name"], modalities, size, files_before(config)))

    def testing(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The same for its test, which may be on another data set, as that of a network trained without labels is."""
        name = config["data_cfg"]["test_dataset_name"]
        if name == config["data_cfg"]["dataset_name"]:
            return self.training(config)
        return _entries(self.named(name, ("silhouettes",), frame_size(config, "evaluator_cfg")))

    def walkers(self, modalities: tuple[str, ...]) -> Path:
        """The walkers as they are generated."""
        out = self.folder / "-".join(modalities).replace("*", "-star")
        if not out.exists():
            options = {"types": KINDS, "views": VIEWS, "frames": FRAMES, "workers": 1, "progress": False}
            synthesize(out, SUBJECTS, modalities=modalities, **options)
        return out

    def named(self, name: str, modalities: tuple[str, ...], size: tuple[int, int] | None, before: int = 0) -> Path:
        """The walkers under the names of a data set, silhouettes brought to a size, behind so many other files."""
        if name not in DATA_SETS:
            raise ValueError(f"say in DATA_SETS how {name} names its sequences; known: {', '.join(DATA_SETS)}")
        names = DATA_SETS[name]
        together = (("parsing",), ("silhouettes", "smpl")) if modalities == PARSING_BESIDE_SMPL else (modalities,)
        sources = [self.walkers(one) for one in together]
        key = [name.replace("*", "-star"), *modalities, *map(str, size or ()), str(before)]
        out = self.folder / "-".join(key).replace("*", "")
        if out.exists():
            return out
        labels = [*names.train, *names.test]
        wanted = [(label, kind, number) for number, label in enumerate(labels) for kind in names.types]
        if names.probe is not None:
            wanted.append((*names.probe, SUBJECTS - 1))
        for row, (label, kind, number) in enumerate(wanted):
            for view in VIEWS:
                walk = Path(f"{number + 1:03d}", KINDS[row % len(KINDS)], view)
                folder = out / label / kind / view
                folder.mkdir(parents=True)
                for file in (file for source in sources for file in (source / walk).iterdir()):
                    array = pickle.loads(file.read_bytes())
                    array = array if size is None else resized(array, *size)
                    for place in range(before):
                        (folder / f"{place:02d}-other.pkl").write_bytes(pickle.dumps(np.zeros(len(array))))
                    (folder / (f"{before:02d}-{file.name}" if before else file.name)).write_bytes(pickle.dumps(array))
        partition: dict[str, list[str]] = {"TRAIN_SET": list(names.train), "TEST_SET": list(names.test)}
        if names.probe is not None:
            partition["TEST_SET"].append(names.probe[0])
        if names.lists_probes:
            partition["PROBE_SET"] = [f"{label}-{names.types[0]}-{VIEWS[0]}" for label in names.test]
        (out / "partition.json").write_text(json.dumps(partition))
        return out


def _entries(folder: Path) -> dict[str, Any]:
    return {"dataset_root": str(folder), "dataset_partition": str(folder / "partition.json"), "num_workers": 0}
