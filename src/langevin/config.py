"""The typed settings of a training run. Imports no torch, so that the command line can show them at once."""

import difflib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

PROCESSES = 512
"""More on one machine are a slip of the keyboard, which would bring it down."""


class Closed(BaseModel):
    """A closed schema: unknown fields are errors, and a value cannot change after it was checked. Numbers are finite: JSON, in
    which they are kept, has no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrainConfig(Closed):
    """How to train."""

    steps: int = Field(default=2000, ge=1)
    """Optimiser updates."""
    samples: int | None = Field(default=None, ge=1)
    """End of the run in samples seen, if that comes before `steps`."""
    hours: float | None = Field(default=None, gt=0)
    """Stop after so much time, ready to be resumed; None for no limit."""
    batch: int = Field(default=64, ge=1)
    """Samples per update (divided over `accumulate` passes, and over processes)."""
    accumulate: int = Field(default=1, ge=1)
    """Passes per update; must divide batch."""
    optimiser: Literal["adamw", "muon", "adafactor"] = "adamw"
    """muon takes hidden matrices and convolutions, and leaves the rest to adamw."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    warmup: int = Field(default=6400, ge=0)
    """Samples over which the rate rises to lr."""
    schedule: Literal["constant", "cosine", "inverse_sqrt", "wsd"] = "cosine"
    """What the rate does after the warm-up: cosine falls to 0 at the end; inverse_sqrt falls from `hold` on; wsd stays, and
    falls to 0 over the last share `decay` of the run."""
    hold: int | None = Field(default=None, ge=1)
    """Samples after which inverse_sqrt begins to fall."""
    decay: float = Field(default=0.2, gt=0, le=1)
    """Share of the run over which wsd falls."""
    weight_decay: float = Field(default=0.01, ge=0)
    """On weights with two or more axes only."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decays of AdamW's moments."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient; longer ones are scaled down."""
    largest_gradient: float | None = Field(default=None, gt=0)
    """A gradient of a larger norm is refused as if it were not finite; None for no limit."""
    nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    """What to do about a batch whose loss or gradient is not finite: stop, leave it out, or leave it out and go back to the
    last checkpoint. It never reaches the weights."""
    ema: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the weight average per update, ramped up as (1 + k) / (10 + k)."""
    averages: tuple[str, ...] = ()
    """Further averages, such as power:sigma_rel=0.05 and power:sigma_rel=0.1, from which others follow after training."""
    precision: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """bfloat16 and float16 run the network under autocast; float16 with a loss scale. auto is bfloat16 where the machine has
    units for its matrices (tensor cores, AMX), float32 elsewhere, where bfloat16 is slower."""
    compile: bool = False
    """Compile the network (torch.compile)."""
    deterministic: bool = False
    """On a GPU, use only algorithms whose sums have one order, so that a run repeats to the bit; slower. A CPU does so anyway."""
    activation_checkpointing: bool = False
    """Compute the inside of each block again in the backward pass instead of keeping it: less memory, a third more time, the
    same gradients."""
    resolutions: tuple[tuple[float, int], ...] = ()
    """Rising resolution: (share of the run, side) pairs; pictures are reduced to that side until then, e.g. 0.5 16."""
    seed: int = 0
    """Names every random choice of the run."""
    workers: int = Field(default=0, ge=0, le=PROCESSES)
    """Processes that read data ahead."""
    save_every: int = Field(default=500, ge=1)
    """Updates between checkpoints."""
    wait: bool = False
    """Stand still while a checkpoint is written, instead of training on."""
    keep: int = Field(default=2, ge=2)
    """Checkpoints kept."""
    preview_every: int = Field(default=500, ge=1)
    """Updates between sample grids."""
    log_every: int = Field(default=10, ge=1)
    """Updates between lines of the log."""
    valid_every: int = Field(default=0, ge=0)
    """Updates between losses on held-out data, "valid" in the log; 0 for none, or, where `fit` is given such, as for previews."""

    @field_validator("averages", mode="before")
    @classmethod
    def _one_or_several(cls, said: Any) -> Any:
        return (said,) if isinstance(said, str) else said

    @field_validator("betas")
    @classmethod
    def _check_betas(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas is {betas}; give two decays of at least 0 and below 1.")
        return betas

    @field_validator("resolutions")
    @classmethod
    def _check_resolutions(cls, pairs: tuple[tuple[float, int], ...]) -> tuple[tuple[float, int], ...]:
        shares = [0.0, *(share for share, _ in pairs)]
        if any(a >= b for a, b in pairwise(shares)) or shares[-1] > 1 or any(side < 1 for _, side in pairs):
            raise ValueError(f"resolutions is {pairs}; give shares that rise, above 0 and at most 1, with sides of at least 1.")
        return pairs

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        if self.schedule == "inverse_sqrt" and self.hold is None:
            raise ValueError("hold is None with the schedule inverse_sqrt; say after how many samples the rate falls.")
        return self


READ: Mapping[str, tuple[str, str]] = {"hold": ("schedule", "inverse_sqrt"), "decay": ("schedule", "wsd")}
"""Settings of training that are read with one value of another alone."""
ELSEWHERE = {
    "batch_size": "batch", "learning_rate": "lr", "num_workers": "workers", "optimizer": "optimiser", "max_steps": "steps",
    "iterations": "steps", "ema_decay": "ema", "grad_clip": "clip", "lr_schedule": "schedule", "scheduler": "schedule",
    "gradient_accumulation": "accumulate", "amp": "precision", "dtype": "precision", "val_every": "valid_every",
    "num_epochs": "epochs", "max_epochs": "epochs",
}  # fmt: skip
"""Names of settings in other libraries, and ours."""
PEERS: Mapping[str, str] = {
    "guidance_scale": "guidance", "true_cfg_scale": "guidance", "cfg_scale": "guidance", "guidance_rescale": "rescale",
    "num_inference_steps": "steps", "num_steps": "steps", "timesteps": "plan", "sigmas": "plan", "scheduler": "plan",
    "sampler": "plan", "negative_prompt": "negative", "generator": "seed", "num_images_per_prompt": "count",
    "batch_size": "batch", "guess_mode": "guess", "control_guidance_start": "control_levels",
    "control_guidance_end": "control_levels", "class_labels": "label", "width": "size", "height": "size", "latents": "start",
    "init_image": "image", "denoising_strength": "strength", "mask_image": "mask", "control_image": "control",
    "controlnet_conditioning_scale": "control_scale", "max_sequence_length": "length", "callback_on_step_end": "callback",
    "on_step": "callback", "preview": "callback",
    "crops_coords_top_left": "crop", "negative_crops_coords_top_left": "negative_crop", "ip_adapter_image": "like",
}  # fmt: skip
"""Names of options of a request in other libraries, and ours."""
PICTURES = ("image", "mask", "control", "like")
"""Options of a request whose pictures its record knows by their SHA-256 alone."""


def settings(given: Mapping[str, Any], others: Sequence[str] = ()) -> TrainConfig:
    """A `TrainConfig` of keywords.

    Args:
        others: further keywords of who asks, for its messages.

    Raises:
        ValueError: in one sentence, for a name that is none, with the nearest that is, or a value out of range.
    """
    known = [*TrainConfig.model_fields, *others]
    for name in given:
        if name in TrainConfig.model_fields:
            continue
        ours = ELSEWHERE.get(name, name)
        if ours == "epochs":
            raise ValueError(f"{name} is no setting; say steps= (updates: epochs * len(data) / batch), or samples=.")
        if ours in ("weight", "levels", "coupling", "drop"):
            raise ValueError(f"{name} is the objective's, no setting of training: objective=lv.objectives.Denoising({ours}=...).")
        near = ours if ours in known else difflib.get_close_matches(ours, known, 1, 0)[0]
        raise ValueError(f"{name} is no setting; did you mean {near!r}? There are {', '.join(known)}.")
    try:
        made = TrainConfig(**given)
    except ValidationError as error:
        raise ValueError(sentence(error)) from None
    refuse_unread(made)
    return made


def refuse_unread(train: TrainConfig, part: str = "") -> None:
    """Refuse settings of training that nothing would read.

    Args:
        part: what names the settings in messages, such as "train.".

    Raises:
        ValueError: naming the first, its value, and when it is read.
    """
    for name, (by, value) in READ.items():
        if getattr(train, by) != value and (now := getattr(train, name)) != TrainConfig.model_fields[name].default:
            raise ValueError(f"{part}{name} is {now}, which is read only with {by} {value}; leave it out.")


def sentence(error: ValidationError, args: Sequence[str] = ()) -> str:
    """The first thing that is wrong: the field, as the flag in `args` that set it, its value, and what it should be."""
    first = error.errors()[0]
    if "error" in (context := first.get("ctx", {})):
        return str(context["error"])  # in our own words
    field = ".".join(map(str, first["loc"]))
    flags = [arg.partition("=")[0] for arg in args if arg.startswith("--")]
    named = next((flag for flag in flags if flag.replace("-", "_").endswith(f".{first['loc'][-1]}")), field)
    return f"{named} is {first.get('input')!r}; it {first['msg'].removeprefix('Input ')}."
