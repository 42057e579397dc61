"""Alphabets as tokenizer.json, the file that the `tokenizers` and `transformers` libraries read, and from such files.

    transformers.PreTrainedTokenizerFast(tokenizer_file="runs/shakespeare/tokenizer.json")

Every alphabet's ids are the same there and here: bytes are byte pairs without pairs, letters are words of one letter, and pieces
are byte pairs of words that GPT-2's pattern splits. No library is needed to write or to read one.
"""

import json
from pathlib import Path
from typing import Any

from langevin.files import cached, parse_json, read_plain
from langevin.text.alphabets import Alphabet, Bytes, Characters, Pieces
from langevin.text.pieces import byte_of

END, MASK = "<|end|>", "<|mask|>"
_LIMIT = 2**26
_EVERY = "[\\s\\S]"  # a dot meets no line end


def to_json(alphabet: Alphabet, end: bool = False, mask: bool = False) -> str:
    """The file of an alphabet, as text.

    Args:
        end: one more token, <|end|>, that ends a text, as runs of lines have. mask: one more, <|mask|>, of masked processes. Both
            come after the alphabet, in this order, as in the runs; they are special tokens, and no text is read as one of these
            unless it says just that.
    """
    joins: list[list[str]] = []
    if isinstance(alphabet, Characters):
        before: dict[str, Any] = {"type": "Split", "pattern": {"Regex": _EVERY}, "behavior": "Isolated", "invert": False}
        decoder: dict[str, Any] = {"type": "Fuse"}
        model = {
            "type": "WordLevel",
            "vocab": {letter: k for k, letter in enumerate(alphabet.letters)},
            "unk_token": "<|unknown|>",
        }
    else:
        whole = isinstance(alphabet, Pieces)
        before = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": whole}
        decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        if isinstance(alphabet, Pieces):
            joins = [pair.split(" ") for pair in alphabet.merges]
            vocabulary = {token: k for k, token in enumerate(alphabet.tokens)}
        else:
            vocabulary = dict(sorted(byte_of().items(), key=lambda item: item[1]))
        model = {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocabulary, "merges": joins,
        }  # fmt: skip
    added = [
        {"id": alphabet.size + k, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True} for k, word in enumerate([END] * end + [MASK] * mask)
    ]  # fmt: skip
    return json.dumps(
        {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": before, "post_processor": None, "decoder": decoder, "model": model,
        }, ensure_ascii=False,
    )  # fmt: skip


def from_json(path: str | Path) -> Alphabet:
    """The alphabet of a tokenizer.json: as `to_json` writes it, or byte pairs of another library, split and numbered as GPT-2's
    are. Special tokens are left out; they must come after all others. It may stand in the cache of huggingface_hub, as a link.

    Raises:
        ValueError: for a file that cannot be read, or that splits or joins otherwise, in words that say where.
    """
    path = Path(path)
    told = parse_json(read_plain(cached(path) if path.is_symlink() else path, _LIMIT), path)
    model, before = (_part(told, name, path) for name in ("model", "pre_tokenizer"))
    if told.get("normalizer") is not None:
        raise ValueError(
            f"{path} changes texts before it reads them (normalizer), so that they would not come back; use another."
        )
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not all(type(k) is int for k in vocabulary.values()):
        raise ValueError(f"{path} has no vocabulary of tokens and numbers; give a tokenizer.json of byte pairs.")
    special = {a.get("content") for a in told.get("added_tokens") or [] if isinstance(a, dict)}
    tokens = sorted((t for t in vocabulary if t not in special), key=vocabulary.__getitem__)
    if [vocabulary[t] for t in tokens] != list(range(len(tokens))):
        raise ValueError(f"{path} does not number its tokens from 0 on, special tokens last; use a file that does.")
    if before.get("type") == "Split" and model.get("type") == "WordLevel":
        if _every(before) and tokens == sorted(set("".join(tokens))):
            return Characters(letters="".join(tokens))
        raise ValueError(f"{path} has words that are no single letters, in the order of their codes; use characters, or pieces.")
    if before.get("type") != "ByteLevel" or before.get("add_prefix_space") or model.get("type") != "BPE":
        raise ValueError(f"{path} is none of byte pairs within words split as GPT-2's (model {model.get('type')}, pre_tokenizer "
                         f"{before.get('type')}); use such a file.")  # fmt: skip
    odd = {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"}
    if asked := sorted(name for name in odd if model.get(name)):
        raise ValueError(f"{path} joins by {asked[0]} {model[asked[0]]!r}, which pieces here do not; use a file without.")
    joins = _joins(model.get("merges"), path)
    if not joins and not before.get("use_regex", True) and tokens == sorted(byte_of(), key=byte_of().__getitem__):
        return Bytes()
    if not before.get("use_regex", True):
        raise ValueError(f"{path} does not split texts into words, and pieces here do; use a file with use_regex.")
    made = Pieces(merges=joins)
    if list(made.tokens) != tokens:
        raise ValueError(f"{path} does not number the 256 bytes in GPT-2's order, and then what is joined, in that order; use a "
                         "file that does.")  # fmt: skip
    return made


def _joins(told: Any, path: Path) -> tuple[str, ...]:
    """Pairs, "a b", which files tell so or as two words."""
    pairs: list[Any] = [p.split(" ") if isinstance(p, str) else p for p in told] if isinstance(told, list) else [None]
    if not all(isinstance(p, list) and len(p) == 2 and all(isinstance(w, str) for w in p) for p in pairs):
        raise ValueError(f"{path} has merges that are no pairs of tokens; give a tokenizer.json of byte pairs.")
    return tuple(" ".join(pair) for pair in pairs)


def _part(told: Any, name: str, path: Path) -> dict[str, Any]:
    found = told.get(name) if isinstance(told, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"{path} has no {name}; give a tokenizer.json, as the tokenizers library writes it.")
    return found


def _every(before: dict[str, Any]) -> bool:
    """Whether a split parts every letter from the next."""
    return before.get("pattern") == {"Regex": _EVERY} and before.get("behavior") == "Isolated"
