"""Textual inversions of others are read whole, and the peer reads the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from langevin.tensors import load, metadata, save
from langevin.zoo.embeddings import embedding_of, read_embedding, word_of, write_embedding
from langevin.zoo.layouts import flat


def _vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8,), (1, 8), (3, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", ["<cat-toy>", "emb_params"])
def test_one_table_under_either_name(tmp_path: Path, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    value = _vectors(*shape).to(dtype)
    path = save(tmp_path / "style.safetensors", {name: value})
    assert torch.equal(read_embedding(path), value.float().reshape(-1, 8))
    assert word_of({name: value}, path) == (name if name.startswith("<") else "style")


def test_the_peer_reads_the_same(tmp_path: Path) -> None:
    """A1111's dictionary and a plain one, through the peer's own reader of states."""
    loaders = pytest.importorskip("diffusers.loaders.textual_inversion")
    transformers = pytest.importorskip("transformers")
    value = _vectors(2, 8)
    a1111: dict[str, Any] = {
        "string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": value}, "name": "style", "step": torch.tensor(99),
        "sd_checkpoint": None, "sd_checkpoint_name": None,
    }  # fmt: skip
    tokenizer = transformers.CLIPTokenizer(
        vocab={"a</w>": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}, merges=[], unk_token="<|endoftext|>"
    )
    mixin = loaders.TextualInversionLoaderMixin
    for state, word in ((a1111, "style"), ({"<toy>": value}, "<toy>")):
        _, (theirs,) = mixin._retrieve_tokens_and_embeddings([None], [state], tokenizer)
        assert torch.equal(embedding_of(flat(state)), theirs), word


def test_sdxl_has_one_for_each_encoder(tmp_path: Path) -> None:
    first, second = _vectors(2, 8), _vectors(2, 12, seed=1)
    path = save(tmp_path / "xl.safetensors", {"clip_l": first, "clip_g": second})
    assert torch.equal(read_embedding(path), first)
    assert torch.equal(read_embedding(path, "text_encoder_2"), second)
    # ours note their word, which the names of their tensors and of the file do not tell
    ours = write_embedding(tmp_path / "mytoy.safetensors", "<my toy>", {"text_encoder": first, "text_encoder_2": second})
    assert word_of(load(ours), ours, metadata(ours)) == "<my toy>"
    path = save(tmp_path / "half.safetensors", {"clip_l": first})
    with pytest.raises(ValueError, match=r"none for the text_encoder_2 \(clip_g\)"):
        read_embedding(path, "text_encoder_2")


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    def refused(tensors: dict[str, Tensor], message: str, encoder: str = "text_encoder") -> None:
        path = save(tmp_path / "odd.safetensors", tensors)
        with pytest.raises(ValueError, match=message):
            read_embedding(path, encoder)

    refused({"a": _vectors(2, 8), "b": _vectors(2, 8)}, "holds 'a', 'b', where one table")
    refused({"a": torch.ones(2, 8, dtype=torch.int64)}, "vectors are")
    refused({"a": _vectors(2, 8, 3)}, "vectors are")
    refused({"a": _vectors(2, 8) / 0}, "not finite")
    refused({"a": _vectors(2, 8)}, "taken to be the first", "text_encoder_2")
    refused({"a": _vectors(2, 8)}, "there are text_encoder", "unet")
    refused({"clip_l": _vectors(2, 8), "other": _vectors(2, 8)}, "holds 'other' beside")
