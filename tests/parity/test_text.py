"""Text encoders and tokenizers against transformers, and prompts with weights and beyond the limit."""

import json
import shutil

import pytest
import torch

from langevin.networks.text import TextEncoder
from langevin.tensors import load, save
from langevin.text.prompts import encode, parse, tokens, weigh
from langevin.text.tokens import Tokenizer
from langevin.zoo import registry
from langevin.zoo.load import load as open_folder

CASES = ["clip_l", "clip_vision", "open_clip_bigg", "open_clip_h", "t5_v1_1", "umt5"]
FILE = "model.safetensors"


@pytest.mark.parametrize("name", ["clip_vision", "t5_v1_1", "umt5"])
def test_encoders_say_what_the_peer_says(goldens, name):
    case = goldens.case("text_encoders", name)
    ((folder, entry),) = case.entry["components"].items()
    part = registry.component(entry["class"])
    net = case.network(folder, part, FILE)
    for call, recorded in case.entry["calls"].items():
        with torch.no_grad():
            said = net(*case.arguments(call).values())
        named = {"last_hidden_state": said.last, "image_embeds": said.pooled}
        named |= {f"hidden_states/{i}": h for i, h in enumerate(said.hidden)}
        for output in recorded["outputs"]:
            case.agrees(call, output, named[output])
    case.goes_back(folder, part, net, FILE)


@pytest.mark.parametrize("name", [n for n in CASES if n != "clip_vision"])
def test_tokenizers_give_the_peers_ids(goldens, name):
    case = goldens.case("text_encoders", name)
    (call, *_) = case.entry["calls"]
    theirs = case.argument(call, "input_ids")
    ids, mask = Tokenizer(case.dir / "tokenizer")(case.entry["prompts"], theirs.shape[1])
    assert torch.equal(ids, theirs)
    if "attention_mask" in case.entry["calls"][call]["args"]:
        assert torch.equal(mask.long(), case.argument(call, "attention_mask").long())


TEXTS = ["a photograph of an astronaut", "It's   3 DOGS, naïve & 'so on'!", "日本 ünïcode\ttab", "", "the word " * 60]


def test_the_older_pair_of_files_gives_the_same_ids(goldens, tmp_path):
    folder = goldens.case("text_encoders", "clip_l").dir / "tokenizer"
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(folder / file, tmp_path / file)
    new, old = Tokenizer(folder), Tokenizer(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(new(TEXTS), old(TEXTS), strict=True))
    assert (new.before, new.after, new.pad, new.length) == (old.before, old.after, old.pad, old.length)


def test_sentencepiece_files_give_the_same_ids(goldens, tmp_path):
    folder = goldens.case("text_encoders", "t5_v1_1").dir / "tokenizer"
    for file in ("spiece.model", "tokenizer_config.json"):
        shutil.copy(folder / file, tmp_path / file)
    pytest.importorskip("sentencepiece")
    assert torch.equal(Tokenizer(folder)(TEXTS, 40)[0], Tokenizer(tmp_path)(TEXTS, 40)[0])


def test_names_count_with_and_without_their_prefix_and_buffers_of_old_files_are_passed_over(goldens, tmp_path):
    case = goldens.case("text_encoders", "clip_l")
    ids = case.argument("encode", "input_ids")
    plain = open_folder(case.dir / "text_encoder")
    tensors = load(case.dir / "text_encoder" / "model.safetensors")
    shutil.copy(case.dir / "text_encoder" / "config.json", tmp_path / "config.json")
    save(tmp_path / "model.safetensors", {n.removeprefix("text_model."): v for n, v in tensors.items()})
    bare = open_folder(tmp_path)
    older = tmp_path / "older"
    older.mkdir()
    shutil.copy(case.dir / "text_encoder" / "config.json", older / "config.json")
    shutil.copy(case.dir / "with_position_ids" / "model.safetensors", older / "model.safetensors")
    old = open_folder(older)
    assert torch.equal(plain(ids).last, bare(ids).last) and torch.equal(plain(ids).last, old(ids).last)


def test_every_tensor_is_used_or_refused_by_name(goldens, tmp_path):
    case = goldens.case("text_encoders", "t5_v1_1")
    tensors = load(case.dir / "text_encoder" / "model.safetensors")
    shutil.copy(case.dir / "text_encoder" / "config.json", tmp_path / "config.json")
    some = "encoder.block.1.layer.1.DenseReluDense.wi_0.weight"
    for changed, words in (
        ({n: v for n, v in tensors.items() if n != some}, "lacks"),
        ({**tensors, some + "_": tensors[some]}, "nothing in this network would use"),
        ({**tensors, some: tensors[some][1:].clone()}, "shape"),
    ):
        save(tmp_path / "model.safetensors", changed)
        with pytest.raises(ValueError, match=words) as error:
            open_folder(tmp_path)
        assert some in str(error.value)


def test_a_language_model_is_loaded_strictly(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.Gemma2Config(vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                                       num_attention_heads=2, num_key_value_heads=1, head_dim=8)  # fmt: skip
    theirs = transformers.Gemma2Model(config).eval()
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "architectures": ["Gemma2Model"]}, default=str))
    save(tmp_path / "model.safetensors", {f"model.{n}": v.contiguous() for n, v in theirs.state_dict().items()})
    ours = open_folder(tmp_path)
    ids, mask = torch.randint(60, (2, 7)), torch.ones(2, 7, dtype=torch.bool)
    mask[0, 4:] = False
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask, output_hidden_states=True)
        said = ours(ids, mask)
    assert torch.equal(said.last, expected.last_hidden_state)
    assert torch.equal(said.hidden[-2], expected.hidden_states[-2])


def test_weights_are_read_as_written():
    assert parse("a (red:1.3) bicycle") == [("a ", 1.0), ("red", 1.3), (" bicycle", 1.0)]
    assert parse(r"a \(red\) bicycle") == [("a (red) bicycle", 1.0)]
    assert parse("((a:2) b)") == [("a", 2 * 1.1), (" b", 1.1)]
    assert parse("time: 10:30") == [("time: 10:30", 1.0)]
    for bad in ("a (b", "a) b"):
        with pytest.raises(ValueError, match="parenthes"):
            parse(bad)


@pytest.fixture
def side(goldens):
    case = goldens.case("text_encoders", "clip_l")
    return open_folder(case.dir / "text_encoder"), Tokenizer(case.dir / "tokenizer")


def test_plain_prompts_are_the_same_whether_weights_and_length_are_asked_for_or_not(side):
    encoder, tokenizer = side
    assert isinstance(encoder, TextEncoder)
    plain = encoder(tokenizer(["a red cat, blue dog"])[0])
    asked = tokens(tokenizer, ["a red cat, blue dog"], weighted=True, long=True)
    assert torch.equal(weigh(encode(encoder, asked, False).last, asked), plain.last)
    ones = tokens(tokenizer, ["(a red cat:1.0), blue dog"], weighted=True)
    assert torch.equal(encode(encoder, ones, False).last, plain.last)


def test_a_weight_scales_its_tokens_alone_and_keeps_the_mean(side):
    encoder, tokenizer = side
    asked = tokens(tokenizer, ["a (red:1.5) cat", "a red cat"], weighted=True)
    states = encode(encoder, asked, False).last
    out = weigh(states, asked)
    changed = asked.weights[0, 0] != 1
    assert torch.allclose(states[0], states[1], atol=1e-5) and torch.equal(out[1], states[1])
    assert torch.allclose(out.mean((1, 2)), states.mean((1, 2)), atol=1e-6)
    ratio = out[0] / states[0]
    assert torch.allclose(ratio[changed], ratio[~changed].flatten()[0] * 1.5, rtol=1e-3)
    assert changed.sum() == len(tokenizer.plain("red"))


def test_long_prompts_are_their_parts_one_after_the_other(side):
    encoder, tokenizer = side
    words = "a photo of a cat riding a dog on mars in the style of red painting "
    long = words * 12
    asked = tokens(tokenizer, [long, "a cat"], long=True)
    count = asked.ids.shape[1]
    assert count == -(-len(tokenizer.plain(long)) // 75) > 1
    joined = encode(encoder, asked, False)
    for k in range(count):
        alone = encoder(asked.ids[:, k])
        assert torch.allclose(joined.last[:, 77 * k : 77 * (k + 1)], alone.last, atol=1e-5)
    assert torch.allclose(joined.pooled, encoder(asked.ids[:, 0]).pooled, atol=1e-5)
    inner = asked.ids[0, :, 1:76].flatten()[: len(tokenizer.plain(long))]
    assert inner.tolist() == tokenizer.plain(long)
    # the further chunks of a short prompt are those of the empty one
    assert torch.equal(asked.ids[1, 1], tokenizer([""])[0][0])
