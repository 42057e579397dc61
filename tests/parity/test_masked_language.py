"""Published masked language models: the belief is theirs, and decoding is what their authors describe."""

import pytest
import torch

from langevin import plans
from langevin.core.sample import sample
from langevin.zoo.masked_language import MaskedLanguage, masked_language

transformers = pytest.importorskip("transformers")
WORDS = ["[PAD]", "[MASK]", "[CLS]", "[SEP]", *[f"w{k}" for k in range(20)]]


def saved(folder, kind):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    inner = Tokenizer(models.WordLevel({w: k for k, w in enumerate(WORDS)}, "[PAD]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", mask_token="[MASK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    shared = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0,
              "intermediate_size": 32, "max_position_embeddings": 64}  # fmt: skip
    config = transformers.AutoConfig.for_model(kind, **shared)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = transformers.AutoModelForMaskedLM.from_config(config).eval()
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.5)
    model.save_pretrained(folder)
    return model.requires_grad_(False)


def believed(model, ids):
    """The model's own probabilities, of what may be written."""
    logits = model(input_ids=ids).logits.double()
    logits[..., :2] = -torch.inf
    return torch.softmax(logits, -1)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_the_belief_is_the_models_own(tmp_path, kind):
    model, found = saved(tmp_path, kind), masked_language(tmp_path, 10)
    z = torch.tensor([[2, 5, 24, 9, 24, 24, 7, 3], [2, 24, 24, 24, 8, 8, 24, 3]])
    ids = torch.where(z == 24, 1, z)
    probs = found.denoiser(z, 0.5).probs.double()
    assert torch.allclose(probs[z == 24], believed(model, ids)[z == 24], atol=1e-5)
    assert (probs.argmax(-1) == z)[z != 24].all() and (probs[z != 24].amax(-1) == 1).all()  # what is known is kept


def decoded(model, ids, blocks, per_row):
    """LLaDA's decoding by hand: in each block, the surest tokens so many at a time, the likeliest of each."""
    x = ids.clone()
    for block in blocks:
        while bool((x[block] == 1).any()):
            p = believed(model, x[None])[0]
            best = p.amax(-1)
            here = [i for i in block if x[i] == 1]
            for i in sorted(here, key=lambda i: -float(best[i]))[:per_row]:
                x[i] = p[i].argmax()
    return x


@pytest.mark.parametrize("per_row", [1, 2])
@pytest.mark.parametrize("block", [None, 4])
def test_the_surest_first_block_by_block(tmp_path, block, per_row):
    model, found = saved(tmp_path, "bert"), masked_language(tmp_path, 12)
    begin = torch.tensor([2, 5, 9, 14])  # known, and as long as a block
    plan = plans.confidence(8 // per_row, temperature=0.0, block=block)
    given, known = torch.nn.functional.pad(begin, (0, 8))[None], (torch.arange(12) < 4)[None]
    made = sample(found.denoiser, plan, 1, shape=(12,), given=given, known=known)[0]
    blocks = [range(4, 12)] if block is None else [range(4, 8), range(8, 12)]
    assert torch.equal(made, decoded(model, torch.cat([begin, torch.ones(8, dtype=torch.int64)]), blocks, per_row))


def test_blanks_and_prompts_are_words(tmp_path):
    model, found = saved(tmp_path, "bert"), masked_language(tmp_path, 32)
    plan = plans.confidence(2, temperature=0.0)
    (text,) = found.fill("w3 [MASK] w5 [MASK] w7", plan)
    ids = torch.tensor([2, 7, 1, 9, 1, 11, 3])
    expected = decoded(model, ids, [range(7)], 1)[1:-1]
    assert text.split() == [WORDS[k] for k in expected] and text.split()[::2] == ["w3", "w5", "w7"]
    assert found.fill("w3 _ w5 _ w7", plan, blank="_") == [text]
    (after,) = found.go_on("w3 w4", plans.confidence(6, temperature=0.0), 6)
    ids = decoded(model, torch.tensor([2, 7, 8, *[1] * 6]), [range(9)], 1)[3:].tolist()
    ids = ids[: ids.index(3)] if 3 in ids else ids
    assert after.split() == [WORDS[k] for k in ids if k > 3]


def test_a_model_that_says_tokens_a_place_early_is_read_so():
    class Early(torch.nn.Module):
        def forward(self, input_ids, attention_mask=None):
            from types import SimpleNamespace

            return SimpleNamespace(logits=10.0 * torch.nn.functional.one_hot((input_ids + 1) % 6, 6))

    net = MaskedLanguage(Early(), 0, 6, shifted=True)
    assert net(torch.tensor([[3, 6, 5]]), torch.zeros(1)).argmax(-1).tolist() == [[4, 4, 1]]


def test_what_is_no_such_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no config"):
        masked_language(tmp_path)
    saved(tmp_path, "bert")
    (tmp_path / "config.json").write_text('{"model_type": "llada", "auto_map": {"AutoModelForMaskedLM": "code.LLaDA"}}')
    (tmp_path / "code.py").write_text("raise SystemExit('this was run')")
    with pytest.raises(ValueError, match="no masked language model that transformers has"):
        masked_language(tmp_path)
