"""Textual inversion (2208.01618): files with the vectors of a new word, as they circulate.

A file holds vectors for one text encoder, or for both of SDXL under the names `clip_l` and `clip_g`. Its other names are one of

- diffusers': `{"<word>": vector}`, one tensor under the word itself;
- A1111's: `string_to_param` with one tensor `*`, beside notes; as safetensors, `emb_params`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from langevin.tensors import load, save

WORDS = ("learned_embeds.safetensors",)
"""What diffusers calls a file of a learned word."""
ENCODERS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


def read_embedding(path: str | Path, encoder: str = "text_encoder") -> Tensor:
    """The vectors (n, D) of a safetensors file, one for each place that the word takes, in float32.

    Args:
        encoder: for which they are; a file for one encoder alone is taken to be for the first.

    Raises:
        ValueError: if the file holds none for that encoder, or something else than one table of vectors.
    """
    return embedding_of(load(path), encoder, str(path))


def embedding_of(tensors: Mapping[str, Tensor], encoder: str = "text_encoder", what: str = "the file") -> Tensor:
    """`read_embedding` of tensors that were read already; nested ones under dotted names."""
    if encoder not in ENCODERS:
        raise ValueError(f"encoder is {encoder!r}; there are {', '.join(ENCODERS)}.")
    both = set(ENCODERS.values()) & set(tensors)
    if both:
        name = ENCODERS[encoder]
        if left := sorted(set(tensors) - set(ENCODERS.values())):
            raise ValueError(f"{what} holds {left[0]!r} beside vectors for {' and '.join(sorted(both))}.")
        if name not in both:
            raise ValueError(f"{what} has vectors for {' and '.join(sorted(both))}, none for the {encoder} ({name}).")
    else:
        # A1111's notes say nothing of the vectors; its table of ids is of the time of training
        held = [n for n in tensors if not n.startswith(("string_to_token", "sd_checkpoint", "step", "name"))]
        if len(held) != 1:
            listed = ", ".join(map(repr, held[:3])) or "nothing"
            raise ValueError(f"{what} holds {listed}, where one table of vectors is expected; it is no textual inversion.")
        if encoder != "text_encoder":
            raise ValueError(f"{what} has vectors for one text encoder, which is taken to be the first; none for the {encoder}.")
        name = held[0]
    value = tensors[name]
    if value.ndim == 1:
        value = value[None]
    if value.ndim != 2 or not value.numel() or not value.is_floating_point():
        raise ValueError(
            f"{what}: {name!r} is {value.dtype} of shape {tuple(tensors[name].shape)}, and vectors are (n, D) numbers."
        )
    if not bool(value.isfinite().all()):
        raise ValueError(f"{what}: {name!r} has values that are not finite.")
    return value.to(torch.float32)


def word_of(tensors: Mapping[str, Tensor], path: str | Path, noted: Mapping[str, str] | None = None) -> str:
    """The word of a file: what its metadata note (ours), the name of its tensor where that is one (diffusers), else the file's
    name without its ending."""
    if noted is not None and "word" in noted:
        return noted["word"]
    names = [n for n in tensors if n not in ("emb_params", *ENCODERS.values()) and not n.startswith("string_to_")]
    return names[0] if len(tensors) == 1 and names else Path(path).stem


def write_embedding(path: str | Path, word: str, vectors: Mapping[str, Tensor]) -> Path:
    """Write the vectors of a word as others read them: one encoder's under the word itself, those of both under their names.

    Args:
        path: a safetensors file. vectors: (n, D) by encoder.

    Raises:
        ValueError: for an encoder that has no place in such files.
    """
    if odd := sorted(set(vectors) - set(ENCODERS)):
        raise ValueError(f"{odd[0]!r} has no place in a file of learned words; there are {', '.join(ENCODERS)}.")
    held = {part: value.detach().cpu().contiguous() for part, value in vectors.items()}
    both = len(held) > 1 or "text_encoder" not in held
    tensors = {ENCODERS[part]: value for part, value in held.items()} if both else {word: held["text_encoder"]}
    return save(path, tensors, {"format": "pt", "word": word})
