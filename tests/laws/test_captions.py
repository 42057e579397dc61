"""Captions as token ids."""

import pytest
import torch

from langevin.recipes.captions import Captioned, Vocabulary, learn

TEXTS = [
    "grinning face",
    "grinning face with big eyes",
    "red heart",
    "cat face",
    "Face  With\tTears of joy",
    "flag: Côte d’Ivoire",
] * 3


def test_ids_are_those_of_clips_own_tokenizer(tmp_path):
    transformers = pytest.importorskip("transformers")
    made = learn(TEXTS, 560, 12)
    assert len(made.tokens) <= 560 and made.tokens["<|endoftext|>"] == max(made.tokens.values())
    made.write(tmp_path)
    peer = transformers.CLIPTokenizer.from_pretrained(str(tmp_path))
    texts = [*TEXTS[:6], "", "unknown words 42!", "an emoji 😀", "a very long text " * 9]
    theirs = peer(texts, padding="max_length", truncation=True, max_length=12, return_tensors="pt").input_ids
    assert torch.equal(made.ids(texts), theirs)


def test_a_vocabulary_survives_its_json_and_learns_the_same_twice():
    made = learn(TEXTS, 540, 8, ["red heart"])
    assert made == learn(TEXTS, 540, 8, ["red heart"]) == Vocabulary.model_validate_json(made.model_dump_json())
    with pytest.raises(ValueError, match=r"text\.vocabulary is 100"):
        learn(TEXTS, 100, 8)


def test_samples_bring_the_ids_of_their_own_captions():
    class Source:
        captions = TEXTS[:4]
        shape = (3, 2, 2)

        def __len__(self):
            return 4

        def batch(self, index):
            from langevin.core.batch import Batch

            return Batch(torch.zeros(len(index), 3, 2, 2), {"label": index})

    made = learn(TEXTS, 540, 8)
    source = Captioned(Source(), made)
    batch = source.batch(torch.tensor([2, 0]))
    assert torch.equal(batch.cond["ids"], made.ids([TEXTS[2], TEXTS[0]])) and batch.cond["label"].tolist() == [2, 0]
    assert source.shape == (3, 2, 2) and len(source) == 4
