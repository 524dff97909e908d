"""Methods and attributes of the reference implementation's base class that networks here do without.

Each is refused by name, with what to use in its place, so that none is ignored in silence.
"""

from __future__ import annotations

from typing import Any, NoReturn

REFUSED = {
    "get_loader": "the engine makes loaders: name a sampler class of yours in trainer_cfg.sampler.type, and change "
    "what a batch becomes in prepare_inputs(batch, transforms)",
    "train_step": "the engine steps: act between steps in before_iteration(optimizer), and clip with "
    "trainer_cfg.clip_grad_norm",
    "inference": "the engine embeds the test set: return the features of a batch in forward's inference_feat, and "
    "change what a batch becomes in prepare_inputs(batch, transforms)",
    "save_ckpt": "the engine writes checkpoints: keep what belongs in them in parameters and buffers "
    "(register_buffer, get_extra_state)",
    "resume_ckpt": "the engine restores: use trainer_cfg.restore_hint and restore_ckpt_strict, and load pretrained "
    "parts in init_parameters()",
    "_load_ckpt": "the engine restores: use trainer_cfg.restore_hint and restore_ckpt_strict, and load pretrained "
    "parts in init_parameters()",
    "fix_BN": "use trainer_cfg.fix_BN: true, or freeze single layers in train(mode)",
}
REFUSED_ENTRIES = {
    "run_train": "it is a class method of the configuration here: call opengait.engine.train(config), and change one "
    "step in prepare_inputs(batch, transforms) or before_iteration(optimizer)",
    "run_test": "it is a class method of the configuration here: call opengait.engine.test(config), and change one "
    "batch in prepare_inputs(batch, transforms)",
}
REFUSED_ATTRIBUTES = {
    "Scaler": "the engine scales losses (trainer_cfg.precision)",
    "train_loader": "the engine holds the loaders; prepare_inputs(batch, transforms) is given each batch",
    "test_loader": "the engine holds the loaders; prepare_inputs(batch, transforms) is given each batch",
    "loss_aggregator": "the engine adds up the losses; return their arguments in forward's training_feat",
}
LATER_ATTRIBUTES = {
    "engine_cfg": "a network built from its model_cfg alone has none",
    "save_path": "the engine gives it before the first iteration, after build_network",
    "optimizer": "the engine gives it in training, after build_network",
    "scheduler": "the engine gives it in training, after build_network",
}


class RefusedError(ValueError):
    """A method or attribute that a network cannot override or read; the message names what to use instead."""


class NotHere:
    """Stands for an attribute that is refused, or not given yet. Not a data descriptor, so that assignment replaces it.

    It raises a ValueError and no AttributeError, which `nn.Module.__getattr__` would replace by its own.
    """

    def __init__(self, name: str, advice: str) -> None:
        self.name, self.advice = name, advice

    def __get__(self, network: object | None, owner: type) -> Any:
        if network is None:
            return self
        self._refuse(owner)

    def _refuse(self, owner: type) -> NoReturn:
        raise RefusedError(f"{owner.__name__}.{self.name}: {self.advice}")


def not_here(owner: type) -> type:
    """Class decorator: puts a `NotHere` in the place of everything refused or given later."""
    for name, advice in {**REFUSED, **REFUSED_ATTRIBUTES, **LATER_ATTRIBUTES}.items():
        setattr(owner, name, NotHere(name, advice))
    return owner


def check_overrides(cls: type, base: type) -> None:
    """A network class that is being defined, against the methods that it cannot override.

    Raises:
        RefusedError: it overrides some; every one is named with the hook that takes its place.
    """
    faults = [
        f"{name}: {advice}"
        for name, advice in {**REFUSED, **REFUSED_ENTRIES}.items()
        if _function(getattr(cls, name)) is not _function(getattr(base, name))
    ]
    if {"prepare_inputs", "inputs_pretreament"} <= vars(cls).keys():
        faults.append("inputs_pretreament: prepare_inputs is overridden too, and would leave it unused; keep one")
    if faults:
        raise RefusedError("\n  ".join([f"{cls.__name__} overrides methods that are not called here:", *faults]))


def _function(method: Any) -> Any:
    return getattr(method, "__func__", method)
