"""Golden cases: weights by recipe, inputs and expected numbers from the shared folder (its README says how)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from opengait import Inputs, build_model
from opengait.modeling.losses import LossAggregator


def recipe(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of one state-dict entry."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    rng = np.random.default_rng(seed)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_mean"):
        value = rng.normal(0, 0.1, shape)
    elif key.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif len(shape) <= 1 and key.endswith("weight"):
        value = rng.uniform(0.8, 1.2, shape)
    elif len(shape) <= 1:
        value = rng.normal(0, 0.05, shape)
    elif key.endswith("fc_bin"):
        value = rng.normal(0, 1 / np.sqrt(shape[1]), shape)
    else:
        value = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    return np.asarray(value, np.float32)


def fill_state_dict(model: nn.Module, case: Mapping[str, Any]) -> None:
    """Gives a network the weights of a golden case, after checking keys, shapes and dtypes in order."""
    state = model.state_dict()
    found = [[key, list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in state.items()]
    assert found == case["state_dict"]
    filled = {}
    for key, value in state.items():
        if key in case["left_as_built"]:
            filled[key] = value
        elif key in case["overrides"]:
            filled[key] = torch.full_like(value, case["overrides"][key])
        else:
            filled[key] = torch.from_numpy(recipe(key, tuple(value.shape)))
    model.load_state_dict(filled)


def cut_silhouettes(frames: np.ndarray) -> Tensor:
    """BaseSilCuttingTransform: 10 columns off each side of 64, values to [0, 1]."""
    cut = frames.shape[-1] // 64 * 10
    return torch.from_numpy(frames[..., cut:-cut].astype(np.float32) / 255.0)


@dataclass
class Case:
    """One golden case of a network."""

    info: dict[str, Any]
    arrays: Mapping[str, np.ndarray]
    transform: Callable[[np.ndarray], Tensor] = cut_silhouettes

    @classmethod
    def read(cls, shared: Callable[[str], Path], name: str) -> Case:
        info = json.loads(shared(f"golden/models/{name}.json").read_text())
        with np.load(shared(f"golden/models/{name}.npz")) as arrays:
            return cls(info, dict(arrays))

    def build(self, training: bool = False) -> nn.Module:
        model = build_model(self.info["model_cfg"], training=training)
        fill_state_dict(model, self.info)
        return model

    def inputs(self, kind: str) -> Inputs:
        streams = sorted(key for key in self.arrays if key.startswith(f"in/{kind}/"))
        ipts = [self.transform(self.arrays[key]) for key in streams]
        labels = torch.from_numpy(self.arrays["in/train_labels"]) if kind == "train" else torch.tensor([0, 1, 2])
        seq_l = torch.from_numpy(self.arrays["in/seqL"]) if kind == "packed" else None
        return Inputs(ipts, labels, None, None, seq_l)

    def check_inference(self, kind: str) -> None:
        """eval or packed: every inference feature within 1e-4 of its array's peak."""
        with torch.inference_mode():
            features = self.build()(self.inputs(kind))["inference_feat"]
        expected = {key: value for key, value in self.arrays.items() if key.startswith(f"{kind}/")}
        assert expected
        for key, value in expected.items():
            close_to_peak(features[key.split("/", 1)[1]], value, key)

    def check_training(self) -> None:
        """One forward and backward in training mode: features, losses, info, gradient and batch-norm norms."""
        model = self.build(training=True)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        result = model(self.inputs("train"))
        for key in sorted(key.removesuffix("/shape") for key in self.arrays if key.endswith("/shape")):
            loss, name = key.removeprefix("train/feat/").split("/")
            self._check_summary(key, result["training_feat"][loss][name].detach())
        total, info = LossAggregator(self.info["loss_cfg"])(result["training_feat"])
        expected = {k.removeprefix("train/info/"): v for k, v in self.arrays.items() if k.startswith("train/info/")}
        assert set(info) == set(expected)
        for key, value in expected.items():
            check_info(key, info[key], value)
        close_to_peak(total, self.arrays["train/total"], "total")
        total.backward()
        self._check_gradients(model)
        state = model.state_dict()
        norms = [float(state[key].double().norm()) for key in self.info["bn_buffers"]]
        if norms:
            np.testing.assert_allclose(norms, self.arrays["train/bn_after_norms"], rtol=1e-4)

    def _check_summary(self, key: str, value: Tensor) -> None:
        assert list(value.shape) == self.arrays[f"{key}/shape"].tolist()
        first = self.arrays[f"{key}/first64"]
        mean, std = self.arrays[f"{key}/mean_std"]
        value = value.double().contiguous()
        peak = max(np.abs(first).max(), std, abs(mean))
        np.testing.assert_allclose(value.flatten()[:64], first, atol=1e-4 * peak, rtol=0, err_msg=key)
        np.testing.assert_allclose([value.mean(), value.std(correction=0)], [mean, std], atol=1e-4 * peak, err_msg=key)

    def _check_gradients(self, model: nn.Module, rtol: float = 1e-3) -> None:
        parameters = dict(model.named_parameters())
        assert [[name, p.requires_grad] for name, p in parameters.items()] == self.info["named_parameters"]
        expected = self.arrays["train/grad_norms"]
        norms = [float("nan") if p.grad is None else float(p.grad.double().norm()) for p in parameters.values()]
        np.testing.assert_allclose(norms, expected, rtol=rtol, atol=1e-4 * np.nanmax(expected))


def check_info(key: str, found: Tensor, expected: np.ndarray) -> None:
    """An entry of a loss's info, within the tolerance that the golden README gives its kind."""
    assert not found.requires_grad
    if key.endswith("loss_num"):
        np.testing.assert_allclose(found, expected, atol=1, rtol=0, err_msg=key)
    elif key.endswith("miou"):  # a pixel within rounding of the threshold may fall on either side of it
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0, err_msg=key)
    elif key.endswith("mean_dist"):
        np.testing.assert_allclose(found, expected, rtol=3e-3, err_msg=key)
    elif found.ndim < expected.ndim:  # the reference of some cases reports the cross entropy part by part
        close_to_peak(found, expected.mean(), key)
    else:
        close_to_peak(found, expected, key)


def close_to_peak(found: Tensor, expected: np.ndarray, name: str, tolerance: float = 1e-4) -> None:
    """Equal within a share of the expected array's largest value."""
    found_array = found.detach().numpy()
    assert found_array.shape == np.shape(expected), name
    peak = float(np.abs(expected).max())
    np.testing.assert_allclose(found_array, expected, atol=tolerance * peak, rtol=0, err_msg=name)


def uniform(shape: tuple[int, ...], k: int = -1) -> np.ndarray:
    """u(size, k) of the parity probes, float64, reshaped."""
    i = np.arange(int(np.prod(shape)), dtype=np.float64)
    x = np.sin((i + 1) * 12.9898 + (k + 1) * 78.233) * 43758.5453
    return (x - np.floor(x)).reshape(shape)


def ellipses(n: int, s: int, h: int = 64, w: int = 44) -> Tensor:
    """S(n, s) of the parity probes: binary ellipses that swing in width, [n, s, h, w]."""
    sequence, frame, y, x = np.meshgrid(*(np.arange(size) for size in (n, s, h, w)), indexing="ij")
    half_width = w * (0.2 + 0.08 * np.sin(0.9 * frame + 0.5 * sequence))
    inside = ((y - h / 2) / (0.44 * h)) ** 2 + ((x - w / 2) / half_width) ** 2 < 1
    return torch.from_numpy(inside.astype(np.float32))


def fill_probe(model: nn.Module) -> None:
    """Weights of the parity probes."""
    state = model.state_dict()
    keys = sorted(key for key, value in state.items() if value.is_floating_point() and not key.endswith(".A"))
    for k, key in enumerate(keys):
        shape = tuple(state[key].shape)
        v = 2 * uniform(shape, k) - 1
        if key.endswith("running_var"):
            value = 1 + 0.3 * v
        elif key.endswith("running_mean"):
            value = 0.1 * v
        elif key == "HPP.p":
            value = np.full(shape, 6.5)
        elif key.endswith(".weight") and key.removesuffix("weight") + "running_mean" in state:
            value = 1 + 0.2 * v
        elif len(shape) <= 1:
            value = 0.1 * v
        else:
            value = v * np.sqrt(3 / (shape[1] if key.endswith("fc_bin") else np.prod(shape[1:])))
        state[key].copy_(torch.from_numpy(value))


def check_probe(found: Tensor, mean: float, std: float, elements: list[float]) -> None:
    """Mean, population standard deviation and elements 0, 1, size // 2, last of a parity probe."""
    flat = found.detach().double().contiguous().flatten()
    np.testing.assert_allclose(flat.std(correction=0), std, rtol=1e-4)
    np.testing.assert_allclose(flat.mean(), mean, atol=1e-4 * std)
    np.testing.assert_allclose(flat[[0, 1, len(flat) // 2, -1]], elements, atol=2e-4 * std)
