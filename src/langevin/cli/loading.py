"""Published models on the command line: how one is loaded, and what is told of every request to it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from langevin.cli.asking import Refusal
from langevin.cli.weights import strengths

LOADED = ("dtype", "revision", "variant", "beside", "configs", "budget", "lora", "controlnet", "word", "redux")
"""Flags that say how the model is loaded, for the record."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Flags of every command that loads a published model to draw with it."""

    control: tuple[Path, ...] = ()
    """Hints, one for each control network of the model, its own first."""
    controlnet: tuple[str, ...] = ()
    """Folders, single files or ids of ControlNets, each of which takes a hint."""
    control_scale: tuple[float, ...] = (1.0,)
    """How much hints count: one number for all, or one for each network."""
    control_levels: tuple[float, float] = (1.0, 0.0)
    """From which noise level down to which hints count."""
    clip_skip: int = 0
    """Layers of CLIP left out from the end."""
    weighted: bool = False
    """Read weights in the prompt, (word:1.3)."""
    long: bool = False
    """Read prompts of any length, in parts."""
    length: int | None = None
    """Most tokens of T5 or of a language model."""
    lora: tuple[str, ...] = ()
    """Adapters (LoRA) as FILE or FILE:STRENGTH, of peft, diffusers or kohya; a file, a folder, or an id such as owner/name or
    owner/name/file.safetensors; several add up."""
    adapters: tuple[str, ...] = ()
    """How much those of --lora count, by their files' names, as NAME=STRENGTH or NAME=STRENGTH,NAME=STRENGTH: once for all
    pictures, or once for each."""
    word: tuple[str, ...] = ()
    """Files, folders or ids of learned words (textual inversion), which the prompt may then use."""
    preview: Path | None = None
    """File (.png) to write anew after every step: what the pictures will be, as far as is known."""
    previews: Path | None = None
    """Folder to write these to, one file for each step."""
    tiny: str | None = None
    """With preview or previews: folder or id of a tiny autoencoder of the model's family, for large and sharp ones; by default
    they are small, a linear map of latents."""
    dtype: str | None = None
    """float32, bfloat16 or float16; that of the files by default."""
    device: str | None = None
    """Where to compute; a GPU if there is one."""
    revision: str | None = None
    """Of the repository."""
    variant: str | None = None
    """Of the weights, such as fp16; where there is one alone, that is taken."""
    beside: str | None = None
    """Of a single file: a published folder, or its id, with what the file lacks: tokenizers, text encoders, autoencoder."""
    budget: str | None = None
    """Most memory, such as 8GB; the plan is told before anything is loaded."""
    configs: str | None = None
    """Of a single file that is of no published size: a published folder with its configurations."""


def size_of(name: str, said: str) -> tuple[int, int]:
    """ "768x512" -> (768, 512)."""
    sides = said.split("x")
    if len(sides) != 2 or not all(side.isdigit() for side in sides):
        raise Refusal(f"{name} is {said!r}; give width and height in pixels, as in 768x512.")
    return int(sides[0]), int(sides[1])


def _refuse_idle(asked: Any) -> None:
    """Refuse flags that nothing would read, and a preview that is no picture, before anything is loaded."""
    if asked.preview is not None and asked.preview.suffix.lower() != ".png":
        raise Refusal(f"preview is {asked.preview}; write a .png.")
    if asked.tiny is not None and asked.preview is None and asked.previews is None:
        raise Refusal(f"tiny is {asked.tiny}, which makes previews; say --preview FILE or --previews FOLDER as well.")
    if asked.adapters and not asked.lora:
        raise Refusal("adapters says how much those of lora count; say both, or lora alone.")
    for words in asked.adapters:
        _counting(words)


def model_of(asked: Any, size: tuple[int, int] | None) -> Any:
    """The model that is asked for, which knows for the record how it was loaded."""
    _refuse_idle(asked)
    import torch

    from langevin.zoo.hub import resolve
    from langevin.zoo.load import fingerprint, ladder, load

    dtypes: dict[str | None, Any] = {None: None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if asked.dtype not in dtypes:
        raise Refusal(f"dtype is {asked.dtype!r}; there are {', '.join(str(d) for d in dtypes if d)}.")
    device = asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
    plan = None
    if asked.budget is not None:
        if asked.dtype is not None:
            raise Refusal(
                f"dtype is {asked.dtype}, and the plan of budget {asked.budget} says how wide numbers are; leave one out."
            )
        plan = ladder(
            asked.path,
            asked.budget,
            device=device,
            size=size,
            beside=asked.beside,
            revision=asked.revision,
            variant=asked.variant,
            controlnet=asked.controlnet,
        )
        print(plan)
    model = load(
        asked.path, dtype=dtypes[asked.dtype], device=device, revision=asked.revision, beside=asked.beside, configs=asked.configs,
        variant=asked.variant, lora=None if asked.adapters else strengths(asked.lora), controlnet=asked.controlnet, budget=plan,
    )  # fmt: skip
    if isinstance(model, dict):
        raise Refusal(
            f"{asked.path} holds {', '.join(model)} alone; say --beside FOLDER, a published folder with the other parts and the "
            "tokenizers."
        )
    if not hasattr(model, "run"):
        raise Refusal(f"{asked.path} is one part of a model; give the folder that has model_index.json.")
    if asked.tiny is not None:
        from langevin.zoo.adapting import add_preview

        model = add_preview(model, asked.tiny)
    if getattr(asked, "redux", None) is not None:
        from langevin.zoo.adapting import add_redux

        model = add_redux(model, asked.redux, dtype=dtypes[asked.dtype], device=device)
    for file, strength in strengths(asked.lora).items() if asked.adapters else ():
        from langevin.zoo.adapting import add_lora

        add_lora(model, file, strength)
    said = {name: value for name in LOADED if (value := getattr(asked, name, None))}
    files = {str(file): fingerprint(resolve(file).path) for file in (*strengths(asked.lora), *asked.word)}
    plain = {name: [str(v) for v in value] if isinstance(value, tuple) else value for name, value in said.items()}
    return model.but(loaded={**model.loaded, **plain, **({"files": files} if files else {})})


def read_words(model: Any, files: Sequence[str]) -> None:
    """Teach a model the words of some files, and say how prompts may use them."""
    for file in files:
        from langevin.zoo.adapting import add_word

        print(f"{file}: in the prompt as {add_word(model, file)}")


def options_of(asked: Any, plain: Sequence[str], pictures: Sequence[str]) -> dict[str, Any]:
    """What a request is told: flags that were not left as they are, and pictures, opened.

    Args:
        plain: flags that are options as they are. pictures: those that name files.
    """
    known = {f.name: f.default for f in fields(asked)}
    given: dict[str, Any] = {name: value for name in plain if (value := getattr(asked, name)) != known[name]}
    if asked.control_scale != known["control_scale"]:
        given["control_scale"] = asked.control_scale[0] if len(asked.control_scale) == 1 else asked.control_scale
    if asked.adapters:
        told = [_counting(words) for words in asked.adapters]
        given["adapters"] = told[0] if len(told) == 1 else told
    return given | {name: [picture(file) for file in files] for name in pictures if (files := getattr(asked, name))}


def _counting(words: str) -> dict[str, float]:
    """ "style=0.2,lines=0.5" -> strengths by name."""
    try:
        return {name: float(strength) for name, strength in (word.split("=") for word in words.split(","))}
    except ValueError:
        raise Refusal(f"adapters is {words!r}; give NAME=STRENGTH, or several with commas, as in style=0.2,lines=0.5.") from None


def picture(path: Path) -> Any:
    """A picture of a file.

    Raises:
        ValueError: if it cannot be read.
    """
    from langevin.data.decode import named, picture_of

    with named(path):
        return picture_of(path)


class Watch:
    """Progress: on a terminal, and as pictures where these are asked for."""

    def __init__(self, asked: Any) -> None:
        self.shown, self.file, self.folder, self.seen = sys.stderr.isatty(), asked.preview, asked.previews, 0

    def __call__(self, progress: Any) -> None:
        step = progress.step
        if self.shown:
            print(f"\rstep {step.row + 1}/{step.rows}", end="", file=sys.stderr, flush=True)
        self.seen += 1
        files = [self.file] if self.file is not None else []
        files += [self.folder / f"step-{self.seen:04d}.png"] if self.folder is not None else []
        if not files:
            return
        from langevin.files import best_effort
        from langevin.pictures import save_images

        pictures = progress.preview()
        for file in files:
            with best_effort(file):
                save_images(pictures, file)

    def end(self) -> None:
        if self.shown:
            print(file=sys.stderr)
