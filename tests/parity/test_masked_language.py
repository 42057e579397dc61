"""Published masked language models: the belief is theirs, and decoding is what their authors describe."""

import pytest
import torch

from langevin import plans
from langevin.core.sample import sample, trajectory
from langevin.guidance import Cached, Sharpened
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


@pytest.mark.parametrize("threshold", [0.15, 0.3, 0.95])
def test_what_is_sure_is_revealed_as_the_peers_block_refinement_does(tmp_path, threshold):
    peer = pytest.importorskip("diffusers").BlockRefinementScheduler(block_length=8, num_inference_steps=8, threshold=threshold)
    model, found = saved(tmp_path, "bert"), masked_language(tmp_path, 12)
    begin = torch.tensor([2, 5, 9, 14])
    given, known = torch.nn.functional.pad(begin, (0, 8))[None], (torch.arange(12) < 4)[None]
    plan, cached = plans.confidence(8, temperature=0.0, threshold=threshold), Cached()
    ours = [s.z for s in trajectory(found.denoiser, plan, 1, shape=(12,), given=given, known=known, guidance=cached)]
    peer.set_timesteps(8)
    z, theirs = torch.cat([begin, torch.ones(8, dtype=torch.int64)])[None], []
    for step in range(8):
        said = believed(model, z)[:, 4:].log()
        z = torch.cat([z[:, :4], peer.step(said, step, z[:, 4:], mask_token_id=1, return_dict=False)[0]], 1)
        theirs.append(torch.where(z == 1, len(WORDS), z))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    rows = sum(bool((z == len(WORDS)).any()) for z in ours) + 1
    assert cached.computed == min(rows + 1, 8) and cached.computed + cached.left == 8  # and once it is whole nothing is asked
    assert threshold == 0.95 or rows < 8


@pytest.mark.parametrize("bound", [0.01, 0.5, 2.0])
def test_the_bound_of_entropy_is_the_peers(tmp_path, bound):
    peer = pytest.importorskip("diffusers").EntropyBoundScheduler(bound, t_max=1.0, t_min=1.0, num_inference_steps=8)
    model, found = saved(tmp_path, "bert"), masked_language(tmp_path, 12)
    z = next(iter(trajectory(found.denoiser, plans.confidence(12, "entropy", bound=bound), 3, seed=1))).z
    said = believed(model, torch.ones(1, 12, dtype=torch.int64)).log().clamp(min=-1e4)
    accepted = peer.step(said, 0, torch.zeros(1, 12, dtype=torch.int64), return_dict=False)[1]
    assert torch.equal(z != len(WORDS), accepted.expand(3, -1)) and 1 <= int(accepted.sum()) < 12


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


def test_the_space_before_a_mask_is_the_tokenizers(tmp_path):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    saved(tmp_path, "bert")
    letters = [*WORDS[:4], "\u0120", *"abcdefgh"]
    inner = Tokenizer(models.BPE({w: k for k, w in enumerate(letters)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), decoders.ByteLevel()
    own = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", mask_token=AddedToken("[MASK]", lstrip=True), eos_token="[SEP]"
    )
    own.save_pretrained(tmp_path)
    found = masked_language(tmp_path, 12)
    asked = []
    found.denoiser.net.model.register_forward_pre_hook(lambda m, a, k: asked.append(k["input_ids"]), with_kwargs=True)
    for blank in (None, "_"):
        (text,) = found.fill(f"ab {blank or '[MASK]'}cd", plans.confidence(1, temperature=0.0), blank=blank)
        assert torch.equal(asked[-1], own("ab [MASK]cd", return_tensors="pt").input_ids) and asked[-1].shape == (1, 5)
        assert text.startswith("ab") and text.endswith("cd")


def test_published_models_write_on_the_command_line(tmp_path, capsys):
    from langevin.cli import main

    saved(tmp_path / "bert", "bert")
    found = masked_language(tmp_path / "bert", 32)

    def said(*args):
        capsys.readouterr()
        main(["write", str(tmp_path / "bert"), *args])
        return capsys.readouterr().out.removesuffix("\n").split("\n----\n")

    filled = found.fill("w3 [MASK] w5 [MASK] w7", plans.confidence(2, temperature=0.0))
    assert said("--infill", "w3 _ w5 _ w7") == said("--infill", "w3 [MASK] w5 [MASK] w7") == filled
    assert said("--infill", "w3 # w5 # w7", "--blank", "#", "--plan", "confidence:2:temperature=0") == filled
    assert said("--prefix", "w3 w4", "--length", "9") == found.go_on(
        "w3 w4", plans.confidence(7, temperature=0.0, block=32), 7, whole=True
    )
    drawn = said("--prefix", "w3 w4", "--length", "9", "--plan", "ddpm:4", "--count", "2", "--temperature", "0.7")
    assert drawn == found.go_on("w3 w4", plans.ddpm(4), 7, 2, guidance=Sharpened(0.7), whole=True) and drawn[0] != drawn[1]
    assert all(text.startswith("w3 w4") for text in drawn)
    for wrong, message in (
        (["--count", "2"], "give a plan that draws"), (["--infill", "w3"], "infill has no blank '_'"),
        (["--contains", "w3"], "contains is for runs"), (["--best-of", "2"], "best_of is 2, which is for runs"),
        (["--prefix", "w3 w4", "--length", "2"], "the prefix has 2 tokens"), (["--plan", "auto:3"], "found by trying"),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            said(*wrong)
        assert message in capsys.readouterr().err


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
