"""Tokenizers from the files beside a text encoder, run by the `tokenizers` package."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langevin.files import parse_json

_LARGEST = 64 * 2**20
_LONGEST = 2**16
"""Tokens: a larger limit in a file says that there is none."""


def _json(path: Path) -> dict[str, Any]:
    """An object of a tokenizer's file; empty where there is none.

    Raises:
        ValueError: naming the file, for one that is too large, damaged, or no object.
    """
    if not path.is_file():
        return {}
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than any tokenizer needs.")
    found = parse_json(path.read_bytes(), path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it holds no object; fetch it again.")
    return found


def _content(token: Any) -> str | None:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Turns what the libraries that read tokenizers raise, which is of any kind, into our sentence."""
    try:
        yield
    except (ImportError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        if isinstance(error, ValueError) and str(error).startswith(str(folder)):
            raise
        raise ValueError(f"{folder} has files that make no tokenizer ({type(error).__name__}); fetch them again.") from None


class Tokenizer:
    """Text to ids.

    Args:
        folder: with tokenizer.json, or with vocab.json and merges.txt (CLIP), or with spiece.model (T5, through transformers).

    Attributes:
        length: most tokens the encoder takes.
        pad: the id that fills up.
        before, after: ids put around every text.
        words: ids of words that were learned, see `Side.learn`; the longest that fits is read.

    Raises:
        ValueError: if the folder holds no tokenizer, or its files are damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        settings = {**_json(folder / "special_tokens_map.json"), **_json(folder / "tokenizer_config.json")}
        self.words: dict[str, list[int]] = {}
        with _reading(folder):
            self._backend = _backend(folder, settings)
            bare, whole = self.plain("a"), self._backend.encode("a").ids
            self.plain("\u2603")  # a letter that few vocabularies have: one that refuses it is told of now, and not by a prompt
        at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        self.before, self.after = whole[:at], whole[at + len(bare) :]
        limit = settings.get("model_max_length", 77)
        self.length = int(limit) if isinstance(limit, (int, float)) and 0 < limit <= _LONGEST else 512
        if self.length <= len(self.before) + len(self.after):
            raise ValueError(
                f"{folder} has model_max_length {self.length}, which leaves no room for a text; fetch its files again."
            )
        pad = _content(settings.get("pad_token"))
        found = self._backend.token_to_id(pad) if pad is not None else None
        self.pad = found if found is not None else (self.after[-1] if self.after else 0)
        clip = "CLIP" in str(settings.get("tokenizer_class", ""))
        if clip and self.length > 77:
            self.length = 77

    def plain(self, text: str) -> list[int]:
        """The ids of a text alone."""
        if self.words:
            longest = sorted(self.words, key=len, reverse=True)
            pieces = re.split("(" + "|".join(map(re.escape, longest)) + ")", text)
            if len(pieces) > 1:
                return [i for piece in pieces for i in (self.words[piece] if piece in self.words else self._known(piece))]
        return self._known(text)

    def _known(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def __call__(self, texts: Sequence[str], length: int | None = None) -> tuple[Tensor, Tensor]:
        """(ids, mask), (B, length) each: int64 filled up with the pad, and bool, True at tokens. Longer texts are cut."""
        length = length or self.length
        rows = [self.frame(self.plain(text), length) for text in texts]
        ids = torch.full((len(rows), length), self.pad, dtype=torch.int64)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[i, : len(row)] = True
        return ids, mask

    def frame(self, ids: list[int], length: int) -> list[int]:
        """ids between what goes around every text, cut to `length` in all."""
        return [*self.before, *ids[: length - len(self.before) - len(self.after)], *self.after]

    def cut(self, text: str, length: int | None = None) -> str:
        """What of a text is beyond the limit, as text; empty if all fits."""
        room = (length or self.length) - len(self.before) - len(self.after)
        return self._backend.decode(self.plain(text)[room:]) if len(self.plain(text)) > room else ""


def _backend(folder: Path, settings: dict[str, Any]) -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ImportError("prompts need tokenizers; install the extra: pip install 'langevin[text]'.") from None
    whole = folder / "tokenizer.json"
    if whole.is_file():
        _json(whole)
        made = tokenizers.Tokenizer.from_file(str(whole))
        made.no_truncation()
        made.no_padding()
        return made
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _clip(tokenizers, folder, settings)
    if (folder / "spiece.model").is_file() or (folder / "tokenizer.model").is_file():
        try:
            import transformers
        except ImportError:
            raise ImportError(
                f"{folder} has a sentencepiece model, which needs transformers; install 'langevin[text]'."
            ) from None
        return transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        ).backend_tokenizer
    raise ValueError(f"{folder} has no tokenizer.json, vocab.json with merges.txt, or spiece.model; give a tokenizer's folder.")


def _clip(tokenizers: Any, folder: Path, settings: dict[str, Any]) -> Any:
    """CLIP's byte pairs (2103.00020, released code), from the older pair of files."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

    begin = _content(settings.get("bos_token")) or "<|startoftext|>"
    end = _content(settings.get("eos_token")) or "<|endoftext|>"
    made = tokenizers.Tokenizer(
        models.BPE.from_file(
            str(folder / "vocab.json"),
            str(folder / "merges.txt"),
            unk_token=_content(settings.get("unk_token")) or end,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
        )
    )
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([begin, end])
    ids = {token: made.token_to_id(token) for token in (begin, end)}
    made.post_processor = processors.RobertaProcessing(
        (end, ids[end]), (begin, ids[begin]), trim_offsets=False, add_prefix_space=False
    )
    return made
