"""The settings of fine-tuning a published model. Imports no torch."""

from typing import Literal, Self

from pydantic import Field, model_validator

from langevin.config import Closed, TrainConfig, refuse_unread

ATTENTION = "*.to_q|*.to_k|*.to_v|*.to_out.0|*.to_add_out|*.add_*_proj|*.linear_*"
BEYOND = (
    "*.proj_in|*.proj_out|*.ff*.net.0.proj|*.ff*.net.2|*.conv1|*.conv2|*.conv_shortcut|*.downsamplers.0.conv|"
    "*.upsamplers.0.conv|*.time_emb_proj"
)
"""What LCM-LoRA as published adapts besides."""
Method = Literal["full", "lora", "dreambooth", "textual-inversion", "lcm", "consistency"]
FEW_STEPS = ("lcm", "consistency")
"""Methods that learn from the model itself, toward few steps."""


class Tuning(Closed):
    """A whole fine-tuning, kept in its run directory."""

    method: Method = "lora"
    """What is trained: full (all of the denoiser), lora (adapters beside it), dreambooth (either, with the model's own pictures
    of the kind preserved), textual-inversion (the vectors of a new word alone), lcm or consistency (adapters for a few steps,
    by steps of the model's own flow of order 1 or 2)."""
    origin: str = ""
    """A published folder, the id of a repository, or a single file."""
    beside: str | None = None
    """Of a single file, see `langevin.load`."""
    variant: str | None = None
    """Of the origin's weights, such as fp16; see `langevin.load`."""
    data: str = ""
    """Folder of pictures."""
    captions: str | None = None
    """"txt" for picture.txt beside picture.png, or a JSONL file in the folder with "file" and "text"; without it every picture
    has the prompt."""
    prompt: str | None = None
    """What every picture shows, such as "a photo of sks dog"; of textual-inversion, with {} for the word: several readings are
    taken by default."""
    size: int | None = Field(default=None, ge=8)
    """Side of the squares that pictures are cut to, in pixels; the model's own by default."""
    rank: int = Field(default=8, ge=0)
    """Of the adapters; 0 in dreambooth trains all of the denoiser."""
    alpha: float = Field(default=8.0, gt=0)
    """Adapters are scaled by alpha / rank."""
    targets: str = ATTENTION
    """Layers that are adapted, by shell patterns over their published names; attention by default, of lcm and consistency
    convolutions and feed-forward layers as well."""
    text: bool = False
    """Adapt the text encoders as well (their attention)."""
    prior: str | None = None
    """Of dreambooth: the prompt of the kind that is to be preserved, such as "a photo of a dog"."""
    prior_count: int = Field(default=100, ge=1)
    """How many pictures of it the model draws first."""
    prior_steps: int | None = Field(default=None, ge=1)
    """Evaluations for each; the model's own by default."""
    prior_weight: float = Field(default=1.0, ge=0)
    """How much they count."""
    word: str = "<new>"
    """Of textual-inversion: the word that is learned."""
    begin: str = "object"
    """The word that its vectors begin as."""
    vectors: int = Field(default=1, ge=1, le=64)
    """How many places it takes."""
    guidance: float | None = Field(default=None, ge=1)
    """Of lcm and consistency: the strength of guidance that is learned, so that drawing needs none; 1 for none, the model's own
    by default."""
    drop: float = Field(default=0.0, ge=0, lt=1)
    """Probability that a picture is learned without its caption."""
    seed: int = 0
    """Names the adapters' beginning and the model's own pictures; training has its own, train.seed."""
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.method == "dreambooth" and self.prior is None:
            raise ValueError('prior is None; say what kind of thing is to be preserved, as in --prior "a photo of a dog".')
        if self.method in ("full", "lora", "dreambooth", *FEW_STEPS) and self.captions is None and self.prompt is None:
            raise ValueError("prompt and captions are None; say what the pictures show, or where that is said.")
        if self.method in FEW_STEPS and self.text:
            raise ValueError(
                f"text is True, and {self.method}'s teacher and student are told the same by one text encoder; leave it out."
            )
        if self.method not in FEW_STEPS and self.guidance is not None:
            raise ValueError(
                f"guidance is {self.guidance:g}, which {' and '.join(FEW_STEPS)} alone learn; leave it out, and ask for it when "
                "drawing."
            )
        if self.method in ("lora", *FEW_STEPS) and not self.rank:
            raise ValueError("rank is 0; adapters need at least 1, and method 'full' trains all of the denoiser.")
        if self.method == "textual-inversion" and self.prompt is not None and "{}" not in self.prompt:
            raise ValueError(f"prompt is {self.prompt!r}; say with {{}} where the word stands.")
        if self.method == "textual-inversion" and not self.begin.strip():
            raise ValueError(f"begin is {self.begin!r}; give a word, such as object, as whose vectors the new ones begin.")
        for name, of in _unread(self).items():
            if (value := getattr(self, name)) != METHODS[self.method].get(name, type(self).model_fields[name].default):
                raise ValueError(f"{name} is {value}, of {of}, and method is {self.method!r}; leave it out.")
        refuse_unread(self.train, part="train.")
        return self


def _unread(cfg: Tuning) -> dict[str, str]:
    """Settings that a fine-tuning does not read, and what does: a run in which one was ignored is taken for one in which it made
    no difference."""
    worded, preserving = cfg.method == "textual-inversion", cfg.method == "dreambooth"
    found: dict[str, str] = {}
    if worded:
        found["captions"] = "pictures that are more than a word"
    if cfg.method == "full" or worded:
        found |= dict.fromkeys(("rank", "alpha", "targets", "text"), "adapters")
    elif not cfg.rank:
        found |= dict.fromkeys(("alpha", "targets", "text"), "adapters, and rank is 0")
    if not preserving:
        found |= dict.fromkeys(("prior", "prior_count", "prior_steps", "prior_weight"), "dreambooth")
    if not worded:
        found |= dict.fromkeys(("word", "begin", "vectors"), "textual-inversion")
    if not worded and cfg.captions is not None:
        found["prompt"] = "pictures without captions, and captions is given"
    return found


def _train(**settings: object) -> TrainConfig:
    usual = {"batch": 4, "warmup": 0, "schedule": "constant", "ema": 0.0, "preview_every": 250, "save_every": 250}
    return TrainConfig.model_validate({**usual, **settings})


_LEAPING: dict[str, object] = {
    "train": _train(steps=1000, lr=1e-4), "rank": 64, "alpha": 64.0, "targets": f"{ATTENTION}|{BEYOND}",
}  # fmt: skip
METHODS: dict[str, dict[str, object]] = {
    "full": {"train": _train(steps=1000, lr=1e-5), "drop": 0.1},
    "lora": {"train": _train(steps=1000, lr=1e-4)},
    **dict.fromkeys(FEW_STEPS, _LEAPING),
    "dreambooth": {"train": _train(steps=400, lr=5e-6, batch=1), "rank": 0},
    "textual-inversion": {"train": _train(steps=2000, lr=5e-3, weight_decay=0.0, batch=4)},
}
"""What each method begins with."""
