"""The framework's own sections: every key, its type, its default and its unit.

Arguments of models, losses, transforms, optimisers and schedulers are not here: they are checked against the class
that takes them (`opengait.config.components`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from opengait.config.partition_rule import FORM, check_apart, subjects_of

SECTIONS = (
    "data_cfg",
    "model_cfg",
    "loss_cfg",
    "optimizer_cfg",
    "scheduler_cfg",
    "trainer_cfg",
    "evaluator_cfg",
)

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
FolderName = Annotated[str, Field(min_length=1, pattern=r"^[^/\\]+$")]
Precision = Literal["fp32", "bf16", "fp16"]
Compat = Literal["reference"] | None
Entries = list[Any]


class Section(BaseModel):
    """Base of the sections: unknown keys are errors, types are not converted (an int may stand for a float)."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class PartitionRule(Section):
    """dataset_partition as a rule: ids and ranges of ids; see opengait.config.partition_rule."""

    train: str | list[str] = Field(default_factory=list)
    """Training subjects, such as '001-074'."""
    test: str | list[str] = Field(default_factory=list)
    """Test subjects."""

    @field_validator("train", "test", mode="before")
    @classmethod
    def _can_be_read(cls, value: Any) -> Any:
        subjects_of(value)
        return value

    @model_validator(mode="after")
    def _names_each_subject_once(self) -> PartitionRule:
        train, test = subjects_of(self.train), subjects_of(self.test)
        if not train and not test:
            raise ValueError(f"names no subject under train or test; {FORM}")
        check_apart(train, test)
        return self


class DataSection(Section):
    """data_cfg: which sequences, and how they are read."""

    dataset_name: FolderName
    """First folder of the output path."""
    dataset_root: Annotated[str, Field(min_length=1)]
    """Folder of the subject/type/view tree, or of a packed store."""
    dataset_partition: Annotated[str, Field(min_length=1)] | PartitionRule
    """JSON file with TRAIN_SET and TEST_SET, lists of subjects; or a rule, {train: 001-074, test: 075-124}."""
    num_workers: NotNegative = 1
    """Reading processes per training process."""
    cache: bool = False
    """Keep every sequence of the active split in memory."""
    resident: bool | Literal["auto"] = False
    """Training: keep a packed data set in the device's memory; auto: on CUDA, where it leaves half the memory free."""
    test_dataset_name: str | None = None
    """Data set whose protocol judges the test; dataset_name where it is absent."""
    data_in_use: list[bool] | list[int] | None = None
    """Modalities of a sequence folder in sorted order: a mask, or positions; null takes all."""
    self_supervised: bool = False
    """Training: every sequence is a class of its own."""
    remove_no_gallery: bool = False
    """Leave out probes without any sequence of the same subject in the gallery."""


class SamplerSection(Section):
    """sampler: which sequences form a batch, and which frames of each are taken."""

    type: str
    """Class of the sampler."""
    batch_size: Positive | list[Positive]
    """[P, K]: subjects x sequences per subject; or sequences; over all processes."""
    batch_shuffle: bool = False
    """Deal the P x K sequences to the processes in random order."""
    sample_type: str
    """<mode>_<order>: fixed, unfixed or all; ordered, unordered or allordered."""
    frames_num_fixed: Positive | None = None
    """Frames per sequence, mode fixed."""
    frames_num_min: Positive | None = None
    """Fewest frames per sequence, mode unfixed."""
    frames_num_max: Positive | None = None
    """Most frames per sequence, mode unfixed."""
    frames_skip_num: NotNegative | None = None
    """Frames left out of the window that an ordered choice is taken from."""
    frames_all_limit: Positive | None = None
    """Most frames per sequence, mode all; null takes every frame."""
    points_in_use: dict[str, int] | None = None
    """Point clouds, which are not supported: null."""
    compat: Compat = None
    """`reference`: the reference implementation's faults of batches; see docs/compatibility.md."""


class TrainerSection(Section):
    """trainer_cfg: the training run."""

    save_name: FolderName = "tmp"
    """Name of the run: third folder of the output path and stem of its checkpoints."""
    total_iter: Positive = 80000
    """Iterations of the whole run."""
    save_iter: Positive = 2000
    """Iterations between checkpoints."""
    log_iter: Positive = 100
    """Iterations between log lines."""
    image_iter: Positive | None = None
    """Iterations between TensorBoard images; null is 10 x log_iter."""
    enable_float16: bool = True
    """fp16 with loss scaling on CUDA; fp32 elsewhere."""
    precision: Precision | None = None
    """Overrides enable_float16."""
    compile: bool = False
    """Run the network through torch.compile."""
    accumulate: Positive = 1
    """Parts in which a batch goes through the network, with the gradient of the whole; needs frozen batch norm."""
    sync_BN: bool = False
    """Batch norm over all processes."""
    fix_BN: bool = False
    """Freeze the running statistics of batch norm; its affine part still learns."""
    with_test: bool = False
    """Test after each checkpoint."""
    shard_classes: bool = False
    """Several processes: each keeps and trains its own part of the classes of the classifiers of parts."""
    find_unused_parameters: bool = False
    """Look for parameters without gradient at every iteration of a distributed run."""
    restore_hint: int | str | list[int | str] = 0
    """Iteration of this run's checkpoint, or a checkpoint's path; 0 starts afresh."""
    restore_ckpt_strict: bool = True
    """The checkpoint must hold exactly the network's keys."""
    optimizer_reset: bool = False
    """Do not restore the optimiser."""
    scheduler_reset: bool = False
    """Do not restore the schedule."""
    T_max_iter: Positive | None = None
    """A network's own: iterations until the learning rate schedule that it makes itself ends."""
    compat: Compat = None
    """`reference`: the reference implementation's faults of the training loop; see docs/compatibility.md."""
    seed: NotNegative = 0
    """Key of all randomness."""
    deterministic: bool = False
    """Only deterministic algorithms; slower on CUDA."""
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of all gradients together; null does not clip."""
    max_bad_steps: NotNegative = 10
    """Iterations with a non-finite loss before the run stops."""
    keep_last: Positive | None = None
    """Newest checkpoints that are kept; null keeps all."""
    keep_every: Positive | None = None
    """Checkpoints of multiples of so many iterations are kept beside the newest."""
    keep_best: str | None = None
    """Figure of the tests in training, such as NM@R1; the checkpoint where it is largest is kept beside the newest."""
    dist_timeout_s: Positive = 1800
    """Seconds that a process waits for the others."""
    sampler: dict[str, Any]
    """See SamplerSection."""
    transform: Entries
    """One entry per modality."""

    @model_validator(mode="after")
    def _keeps_some_where_others_go(self) -> TrainerSection:
        for key, value in (("keep_every", self.keep_every), ("keep_best", self.keep_best)):
            if value is not None and self.keep_last is None:
                raise ValueError(f"{key} has no effect without keep_last: every checkpoint is kept")
        if self.keep_best is not None and not self.with_test:
            raise ValueError("keep_best needs with_test: true, which gives the figures")
        return self


class EvaluatorSection(Section):
    """evaluator_cfg: the test."""

    save_name: FolderName = "tmp"
    """Run whose checkpoint is tested."""
    restore_hint: int | str = 80000
    """Iteration of the checkpoint, or its path; 0 tests the network as initialised."""
    restore_ckpt_strict: bool = True
    """The checkpoint must hold exactly the network's keys."""
    enable_float16: bool = False
    """fp16 on CUDA; fp32 elsewhere."""
    precision: Precision | None = None
    """Overrides enable_float16."""
    frames_per_batch: Positive | None = None
    """Frames of one test batch, all its sequences together; null chooses by device."""
    eval_func: str = "evaluate_indoor_dataset"
    """Evaluation function."""
    protocol: str | None = None
    """YAML file of protocols to take the test's from, relative to this file; null takes a known one of eval_func."""
    metric: Literal["euc", "cos"] = "euc"
    """Distance between embeddings: Euclidean or cosine, mean over parts."""
    cross_view_gallery: bool = False
    """Indoor protocol: gallery of all views together."""
    rerank: bool | None = None
    """k-reciprocal re-ranking: of a submission (null is the protocol's own choice), or as figures beside."""
    memory: int | str | None = None
    """Memory that ranking may take beyond the embeddings, such as 2GB; null is 1GB."""
    verification: bool = False
    """Also ROC, EER, TAR at FAR and open-set identification, with bounds."""

    sampler: dict[str, Any]
    """See SamplerSection."""
    transform: Entries
    """One entry per modality."""

    @field_validator("memory")
    @classmethod
    def _a_size(cls, size: int | str | None) -> int | str | None:
        from opengait.evaluation.memory import parse_memory

        if size is not None:
            parse_memory(size)
        return size
