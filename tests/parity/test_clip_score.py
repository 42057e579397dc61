"""CLIP as a judge: transformers' own similarities, and scores of pictures with captions."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import langevin as lv
from langevin.cli import main
from langevin.core.tree import leaves
from langevin.evaluate import CLIP, clip_score, cmmd, extract, load_features, measure
from langevin.recipes.captions import Vocabulary, learn
from langevin.recipes.domains.pictures import quantised
from langevin.recipes.drawing import draw
from langevin.recipes.opening import open_run

transformers = pytest.importorskip("transformers", reason="the peer is not installed")

SIDE, WORDS = (
    24,
    [f"{size} {colour} {thing}" for size in ("big", "small") for colour in ("red", "blue") for thing in ("cat", "hat")],
)


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    return learn(WORDS, 540, 16)


@pytest.fixture(scope="module")
def peer(words, tmp_path_factory):
    """(a folder with a CLIP of random weights, the peer's model of it)."""
    folder, end = tmp_path_factory.mktemp("clip"), len(words.tokens) - 1
    text = {"vocab_size": end + 1, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "max_position_embeddings": 16, "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}  # fmt: skip
    vision = {"hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": SIDE,
              "patch_size": 8}  # fmt: skip
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # as drawn, attention and biases hardly matter
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    words.write(folder)
    said = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}, "resample": 3,
            "image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.2, 0.25]}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder, model


def test_similarities_are_the_peers(peer, words):
    folder, model = peer
    ours = load_features(folder)
    assert isinstance(ours, CLIP) and len(ours.digest()) == 16
    grey = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, SIDE, SIDE), np.uint8)).float()
    pixels = (grey / 255 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.3, 0.2, 0.25]).view(3, 1, 1)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    asked = tokenizer(WORDS, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(input_ids=asked["input_ids"], attention_mask=asked["attention_mask"], pixel_values=pixels)
        cosines = theirs.logits_per_image / model.logit_scale.exp()
    pictures, texts = extract(ours, grey / 127.5 - 1), ours.words(WORDS)
    found = torch.cosine_similarity(pictures[:, None], texts[None], dim=-1)
    assert float((found - cosines).abs().max()) < 1e-5 and float(cosines.std()) > 0.01
    # pictures of another size come in as the peer's own preparation brings them, to a grey level
    wide = np.random.default_rng(1).integers(0, 256, (30, 41, 3), np.uint8)
    prepared = transformers.CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
    wanted = prepared(Image.fromarray(wide), return_tensors="pt")["pixel_values"]
    seen = []
    ours.pictures.register_forward_pre_hook(lambda net, given: seen.append(given[0]))
    ours.features(torch.from_numpy(wide).permute(2, 0, 1)[None].float() / 127.5 - 1)
    assert float(((seen[0] - wanted) * torch.tensor([0.3, 0.2, 0.25]).view(3, 1, 1)).abs().max()) <= 1 / 255 + 1e-5


def test_shuffled_captions_fit_less(peer):
    clip = load_features(peer[0])
    assert isinstance(clip, CLIP)
    x = torch.rand(len(WORDS), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    texts, own = clip.words(WORDS), clip.pictures.project
    assert own is not None
    # a projection that brings each picture to its own caption
    clip.pictures.project = None
    before = extract(clip, x)
    own.weight.copy_(torch.linalg.lstsq(before, texts).solution.T)
    clip.pictures.project = own
    pictures = extract(clip, x)
    right, _ = clip_score(pictures, texts)
    shuffled, _ = clip_score(pictures, texts.roll(1, 0))
    assert right == pytest.approx(100, abs=0.1) and shuffled < right - 1


def test_a_run_that_reads_captions_is_judged_by_them(peer, tmp_path, capsys):
    folder, _ = peer
    (tmp_path / "emoji").mkdir()
    rng, lines = np.random.default_rng(0), []
    for k in range(40):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "emoji" / f"{k}.png")
        lines.append(json.dumps({"file": f"{k}.png", "text": WORDS[k % 8]}))
    (tmp_path / "emoji" / "captions.jsonl").write_text("\n".join(lines))
    out = tmp_path / "run"
    short = ["--train.steps", "2", "--train.batch", "4", "--samples", "8", "--network.width", "16", "--text.width", "16",
             "--text.vocabulary", "540", "--data.size", "16", "--data.held-out", "0.3", "--sample.plan", "ddim:1"]  # fmt: skip
    main(["train", "emoji", "--codec.origin", "None", *short, "--data.folder", str(tmp_path / "emoji"), "--out", str(out)])
    capsys.readouterr()
    judged = ["evaluate", str(out), "--features", str(folder), "--small", "--count", "12", "--json", "--metrics"]
    main([*judged, "clip", "cmmd"])
    said = json.loads(capsys.readouterr().out)
    clip, run = load_features(folder), open_run(out)
    assert isinstance(clip, CLIP)
    held, captions = leaves(run.test.batch(torch.arange(len(run.test))).x)[""], run.test.captions
    words = clip.words([captions[k % len(captions)] for k in range(12)])
    samples = quantised(run, draw(run, 12, seed=1, prompts=captions))
    wanted = {
        "clip": clip_score(extract(clip, samples), words)[0],
        "clip_real": clip_score(extract(clip, held), clip.words(captions))[0],
        "cmmd": cmmd(extract(clip, samples), extract(clip, held)),
    }  # fmt: skip
    assert said["metrics"] == pytest.approx(wanted, abs=1e-3)
    features = said["protocol"]["features"]
    assert (features["name"], features["hash"], features["width"]) == ("CLIP", clip.digest(), 20)
    for words_of, why in ((["evaluate", str(out), "--small", "--metrics", "clip"], "give the folder of a published one"),
                          (["evaluate", str(out), "--small", "--metrics", "cmmd"], "give the folder of a CLIP")):  # fmt: skip
        with pytest.raises(SystemExit):
            main(words_of)
        assert why in " ".join(capsys.readouterr().err.split())
    # folders of pictures, too
    main(["evaluate", str(tmp_path / "emoji"), "--against", str(tmp_path / "emoji"), "--features", str(folder), "--small",
          "--metrics", "cmmd"])  # fmt: skip
    assert "cmmd" in capsys.readouterr().out


def test_what_is_no_clip_is_refused(peer, tmp_path):
    folder, _ = peer
    pca = lv.evaluate.PCA(torch.rand(30, 3, 4, 4))
    with pytest.raises(ValueError, match="metric 'cmmd' is of CLIP's embeddings, and features are PCA"):
        measure(pca, torch.rand(9, 20), torch.rand(9, 20), ["cmmd"])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"config.json is of 'bert'; give the folder of a CLIPModel"):
        load_features(tmp_path)
    said = json.loads((folder / "preprocessor_config.json").read_text())
    for name in folder.iterdir():
        (tmp_path / name.name).write_bytes(name.read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**said, "crop_size": {"height": 32, "width": 32}}))
    with pytest.raises(ValueError, match=r"brings pictures to \[24, 32, 32\] by resample 3; here it is 24, bicubic"):
        load_features(tmp_path)
