"""Text as categories: there and back byte for byte, and splits that stay what they are."""

import numpy as np
import pytest
import torch

from langevin.data import Documents, Text
from langevin.data.text import pieces_of, plain
from langevin.text.alphabets import Bytes, Characters, Pieces, learn

TEXT = (
    "First Citizen:\r\nBefore we proceed any further, hear me speak.\n\n\tAll:  Speak,  speak!\u00a0 Côte d’Ivoire 😀 e\u0301 ﬁ\n"
    "don't  stop\u2003here 12345 \n\n\n   indented, and then nothing   "
) * 3
ALPHABETS = ("bytes", "characters", "pieces")


@pytest.fixture
def file(tmp_path):
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    return tmp_path / "a.txt"


def made(kind, most=300):
    if kind == "pieces":
        pytest.importorskip("tokenizers")
    return learn(kind, [TEXT], most)


@pytest.mark.parametrize("kind", ALPHABETS)
def test_tokens_are_the_text_byte_for_byte(kind):
    alphabet = made(kind)
    ids = alphabet.ids(TEXT)
    assert alphabet.bytes(ids) == TEXT.encode() and alphabet.text(ids) == TEXT
    assert int(ids.max()) < alphabet.size and alphabet.bytes(alphabet.ids("")) == b""
    assert type(alphabet).model_validate_json(alphabet.model_dump_json()) == alphabet == made(kind)
    # every category can be met, and says something
    every = np.arange(alphabet.size)
    assert all(alphabet.bytes(every[k : k + 1]) for k in every)
    if kind != "characters":  # what was never seen is spelled in bytes
        assert alphabet.bytes(alphabet.ids("żółw \x00")) == "żółw \x00".encode()


def test_an_unknown_letter_is_refused_by_name():
    with pytest.raises(ValueError, match="'ż' is none of the"):
        made("characters").ids("a żółw")


def test_pieces_join_the_most_frequent_neighbours():
    pytest.importorskip("tokenizers")
    alphabet = learn("pieces", ["aab aab aab xy"], 258)
    assert alphabet.merges == ("a a", "aa b")
    assert [alphabet.tokens[k] for k in alphabet.ids("aab aac")] == ["aab", "Ġ", "aa", "c"]
    with pytest.raises(ValueError, match="vocabulary is 100"):
        learn("pieces", ["a"], 100)


@pytest.mark.parametrize("kind", ALPHABETS)
@pytest.mark.parametrize("size", [1, 7, 50])
def test_reading_in_pieces_changes_no_token(file, kind, size, monkeypatch):
    alphabet = made(kind)
    monkeypatch.setattr("langevin.data.text.PIECE", size)
    assert "".join(pieces_of([file], size=size)) == TEXT
    ids = np.concatenate([alphabet.ids(piece) for piece in pieces_of([file], size=size)])
    assert np.array_equal(ids, alphabet.ids(TEXT))


@pytest.mark.parametrize("size", [1, 7, 50])
def test_plain_text_has_letters_and_single_spaces_however_it_is_read(file, size):
    said = "".join(pieces_of([file], "plain", size))
    assert said == plain(TEXT) and "one two three four five" in said
    assert set(said) <= set("abcdefghijklmnopqrstuvwxyz ") and "  " not in said


@pytest.mark.parametrize("kind", ALPHABETS)
def test_windows_join_into_the_text_and_the_split_is_the_letters(file, kind):
    alphabet = made(kind)
    train = Text(file, alphabet, length=5, held_out=0.2)
    test = train.part("test")
    cut = round(len(TEXT) * 0.8)
    # where the test begins is told in letters, whatever the tokens
    assert train.alphabet.bytes(train.tokens) == TEXT[:cut].encode() and test.alphabet.bytes(test.tokens) == TEXT[cut:].encode()
    whole = train.batch(torch.arange(len(train))).x.flatten().numpy()
    assert np.array_equal(whole, train.tokens[: len(whole)]) and len(train.tokens) - len(whole) < 5
    every = Text(file, alphabet, length=5, held_out=0.2, stride=1)
    assert torch.equal(every.batch(torch.arange(0, len(every), 5)).x, train.batch(torch.arange(len(train))).x)
    assert train.tokens.dtype == (np.uint16 if kind == "pieces" else np.uint8)
    digests = [source.digest() for source in (train, test, every, Text(file, alphabet, length=4))]
    assert len(set(digests)) == 4 and train.digest() == Text(file, alphabet, length=5, held_out=0.2).digest()


def test_a_folder_is_its_files_in_order(tmp_path):
    for name, text in (("b/two.txt", "second"), ("a.txt", "first "), ("c.md", "no")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    source = Text(tmp_path, length=2, split="all", held_out=0)
    assert source.alphabet.text(source.tokens) == "first second"
    with pytest.raises(ValueError, match="does not exist"):
        Text(tmp_path / "none")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is no UTF-8"):
        Text(tmp_path)


def test_documents_end_and_keep_their_side(tmp_path):
    lines = [f"name {k % 7} || text {k} of the place {k % 7} . " for k in range(60)]
    file = tmp_path / "all.txt"
    file.write_text("\n".join(lines))
    train = Documents(file, key="||", alphabet="characters", length=40, held_out=0.4)
    test = train.part("test")
    assert not set(train.names) & set(test.names) and len(train) + len(test) == 60
    texts = [train.text(row) for row in train.batch(torch.arange(len(train))).x]
    assert set(texts) | {test.text(r) for r in test.batch(torch.arange(len(test))).x} == {
        line.partition("|| ")[2].strip() for line in lines
    }
    assert train.letters == sum(map(len, texts)) and train.categories == train.alphabet.size + 1
    # more texts change no side
    file.write_text("\n".join([*lines, *(f"other {k} || a text of {k} ." for k in range(40))]))
    after = Documents(file, key="||", alphabet=train.alphabet, length=40, held_out=0.4)
    assert set(train.names) <= set(after.names) and not set(after.names) & set(test.names)
    assert Documents(file, key="||", alphabet="characters", length=20, held_out=0.4).left_out > 0


def test_a_split_without_texts_is_no_matter_of_their_length(tmp_path):
    (tmp_path / "none.txt").write_text("\n\n")
    (tmp_path / "one.txt").write_text("one line")
    with pytest.raises(ValueError, match=r"the train split of 0 texts is empty: held_out is 0\.1; .* or add some"):
        Documents(tmp_path / "none.txt")
    with pytest.raises(ValueError, match=r"the (train|test) split of 1 texts is empty"):
        [Documents(tmp_path / "one.txt", split=split) for split in ("train", "test")]
    with pytest.raises(ValueError, match=r"no text of fewer than 2 tokens; give a larger length"):
        Documents(tmp_path / "one.txt", alphabet="bytes", length=2, split="all")


def test_alphabets_are_told_apart_in_json():
    from pydantic import TypeAdapter

    from langevin.text.alphabets import Alphabet

    adapter = TypeAdapter(Alphabet)
    for one in (Bytes(), Characters(letters="ab"), Pieces(merges=("a b",))):
        assert adapter.validate_json(adapter.dump_json(one)) == one
