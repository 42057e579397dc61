"""Alphabets as files that tokenizers and transformers read: the same numbers there and here, and back."""

import json

import pytest
import torch

from langevin.data import Text
from langevin.recipes import recipe
from langevin.recipes.config import TextData
from langevin.recipes.domains.written import tokenizer
from langevin.recipes.opening import open_run
from langevin.recipes.report import pages
from langevin.recipes.starting import start
from langevin.text.alphabets import Pieces
from langevin.text.tokenizer_json import END, MASK, from_json, to_json
from tests.laws.test_text import ALPHABETS, TEXT, file, made  # noqa: F401

tokenizers = pytest.importorskip("tokenizers")


@pytest.mark.parametrize("kind", ALPHABETS)
def test_other_libraries_read_the_same_numbers(kind, tmp_path):
    alphabet, path = made(kind), tmp_path / "tokenizer.json"
    path.write_text(to_json(alphabet, end=True, mask=True))
    theirs = tokenizers.Tokenizer.from_file(str(path))
    texts = [TEXT, "Speak", " ", "\n\n", ""] + (["żółw \x00 \U0001f600"] if kind != "characters" else [])
    for text in texts:
        ids = theirs.encode(text).ids
        assert ids == alphabet.ids(text).tolist() and theirs.decode(ids) == text
    assert theirs.token_to_id(END) == alphabet.size and theirs.token_to_id(MASK) == alphabet.size + 1
    assert theirs.get_vocab_size() == alphabet.size + 2
    assert from_json(path) == alphabet
    path.write_text(theirs.to_str())  # as the library writes it
    assert from_json(path) == alphabet
    if kind == "characters":
        with pytest.raises(Exception, match=r"(?i)unk"):
            theirs.encode("ż")


@pytest.mark.parametrize("kind", ALPHABETS)
def test_transformers_reads_it(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    alphabet, path = made(kind), tmp_path / "tokenizer.json"
    path.write_text(to_json(alphabet))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
    ids = theirs(TEXT)["input_ids"]
    assert ids == alphabet.ids(TEXT).tolist() and theirs.decode(ids) == TEXT


def test_byte_pairs_of_another_library_are_an_alphabet(file, tmp_path):  # noqa: F811
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    every = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    learner = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=every, show_progress=False)
    theirs.train_from_iterator([TEXT], learner)
    path = tmp_path / "theirs.json"
    theirs.save(str(path))
    alphabet = from_json(path)
    assert isinstance(alphabet, Pieces) and alphabet.size == theirs.get_vocab_size()
    for text in (TEXT, "żółw and others"):
        assert alphabet.ids(text).tolist() == theirs.encode(text).ids and alphabet.bytes(alphabet.ids(text)) == text.encode()
    assert Pieces.model_validate_json(alphabet.model_dump_json()) == alphabet
    again = tmp_path / "again.json"
    again.write_text(to_json(alphabet))
    assert from_json(again) == alphabet
    data = Text(file, str(path), length=8, split="all")  # a file is an alphabet of data
    assert data.alphabet == alphabet and data.text(torch.from_numpy(data.tokens.astype("int64"))) == TEXT
    theirs.add_special_tokens(["<s>"])
    theirs.save(str(path))
    assert from_json(path) == alphabet


CHANGES = {
    "changes texts before it reads them": {"normalizer": {"type": "Lowercase"}},
    r"none of byte pairs within words split as GPT-2's \(model BPE, pre_tokenizer Whitespace\)": {
        "pre_tokenizer": {"type": "Whitespace"}
    },
    "has no pre_tokenizer": {"pre_tokenizer": None},
    "joins by byte_fallback True": {"model": {"byte_fallback": True}},
    "does not number its tokens from 0 on": {"model": {"vocab": {"a": 1}}},
    "does not number the 256 bytes in GPT-2's order": {"model": {"vocab": {"a": 0, "b": 1}}},
    "has merges that are no pairs": {"model": {"merges": [["a", 1]]}},
    "has no vocabulary": {"model": {"vocab": ["a"]}},
}


@pytest.mark.parametrize("words", CHANGES)
def test_a_file_of_something_else_is_refused(words, tmp_path):
    told = json.loads(to_json(made("pieces")))
    for name, value in CHANGES[words].items():
        told[name] = {**told[name], **value} if name == "model" else value
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=words):
        from_json(path)


def test_a_run_leaves_its_tokenizer_and_another_is_trained_on_it(file, tmp_path):  # noqa: F811
    def of(alphabet):
        base = recipe("shakespeare").model_dump()
        base["data"].update(
            path=(str(file),), length=16, alphabet=alphabet, **({"vocabulary": 300} if alphabet == "pieces" else {})
        )
        base["network"].update(width=16, depth=1, heads=1)
        base["train"].update(steps=1, batch=2, preview_every=1000)
        base["sample"]["plan"] = "ddpm:2"
        return type(recipe("shakespeare")).model_validate(base)

    _, trainer = start(of("pieces"), tmp_path / "one")
    trainer.run()
    trainer.close()
    run, said = open_run(tmp_path / "one"), []
    pages(run, tmp_path / "one", said.append)
    left = tmp_path / "one" / "tokenizer.json"
    assert str(left) in said and from_json(left) == run.facts.alphabet
    assert tokenizers.Tokenizer.from_file(str(left)).token_to_id(MASK) == run.denoiser.process.states - 1
    assert tokenizer(run, tmp_path / "x.json").read_text() == left.read_text()
    other, trainer = start(of(str(left)), tmp_path / "two")
    trainer.close()
    assert other.facts.alphabet == run.facts.alphabet
    with pytest.raises(ValueError, match="choose one of bytes, characters, pieces, or a tokenizer"):
        TextData(alphabet="words")


def test_a_file_in_the_cache_of_the_hub_is_read_and_no_other_link(tmp_path):
    alphabet = made("pieces")
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / ("0123456789" * 4)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / ("ab" * 20)).write_text(to_json(alphabet))
    (snapshot / "tokenizer.json").symlink_to(f"../../blobs/{'ab' * 20}")
    assert from_json(snapshot / "tokenizer.json") == alphabet
    (tmp_path / "tokenizer.json").symlink_to(repository / "blobs" / ("ab" * 20))
    with pytest.raises(ValueError, match="is a link, which may lead anywhere"):
        from_json(tmp_path / "tokenizer.json")
