"""Adapters and words as they lie about: peft's folders, repositories, single files in folders; and how strong they are meant."""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import langevin as lv
from langevin.cli import main
from langevin.cli.asking import Refusal
from langevin.cli.weights import strengths
from langevin.pictures import save_png
from langevin.record import read_record
from langevin.tensors import load, save
from langevin.zoo import adapting, hub, registry
from langevin.zoo.detect import detect
from langevin.zoo.embeddings import write_embedding
from langevin.zoo.family import published
from langevin.zoo.load import fingerprint
from tests.parity.goldens import Goldens

ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"
CROSS = "mid_block.attentions.0.transformer_blocks.0.attn2"
LAYERS = (f"{ATTENTION}.to_q", f"{ATTENTION}.to_k", f"{ATTENTION}.to_v", f"{CROSS}.to_q", f"{CROSS}.to_out.0")


@pytest.fixture
def folder(goldens: Goldens) -> Path:
    return goldens.case("sd1", "txt2img_sampler").dir / "pipeline"


def _weights(model: Any) -> dict[str, Tensor]:
    net, config = model.parts["unet"]
    return {n: v.double().clone() for n, v in published(net, registry.component(config["_class_name"]).keys(config, net)).items()}


def _peft(folder: Path, to: Path, ranks: dict[str, int], **config: Any) -> Path:
    """The folder that peft writes for a U-Net."""
    weights, generator, made = _weights(lv.load(folder)), torch.Generator().manual_seed(4), {}
    for layer in LAYERS:
        out, wide = weights[f"{layer}.weight"].shape[:2]
        rank = ranks.get(layer, 2)
        made[f"base_model.model.{layer}.lora_A.weight"] = torch.randn(rank, wide, generator=generator)
        made[f"base_model.model.{layer}.lora_B.weight"] = torch.randn(out, rank, generator=generator)
    to.mkdir()
    save(to / "adapter_model.safetensors", made)
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 16, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False, **config}
    (to / "adapter_config.json").write_text(json.dumps({**said, "target_modules": list(LAYERS)}))
    return to


RANKS = {f"{ATTENTION}.to_k": 4, f"{CROSS}.to_out.0": 3}
ALPHAS = {"attn2.to_q": 3, r"mid_block\..*\.attn1\.to_v": 5.5, f"{ATTENTION}.to_k": 1}


def _alpha(layer: str, patterns: dict[str, float]) -> float:
    """What peft finds for the layers above, worked out by hand."""
    if not patterns:
        return 16.0
    return {f"{CROSS}.to_q": 3.0, f"{ATTENTION}.to_v": 5.5, f"{ATTENTION}.to_k": 1.0}.get(layer, 16.0)


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("patterns", [{}, ALPHAS], ids=["one-alpha", "alphas"])
def test_a_folder_of_peft_counts_as_its_settings_say(
    folder: Path, tmp_path: Path, root: bool, patterns: dict[str, float]
) -> None:
    """W + strength alpha / r B A, with r and alpha of each layer; alpha / sqrt(r) where ranks are stabilised (2312.03732)."""
    made = _peft(folder, tmp_path / "style.v1", RANKS, rank_pattern=RANKS, alpha_pattern=patterns, use_rslora=root)
    before, stored = _weights(lv.load(folder)), load(made / "adapter_model.safetensors")
    for path in (made, made / "adapter_model.safetensors"):
        model = lv.load(folder)
        adapting.add_lora(model, path, 0.5)
        adapting.merge(model, "style_v1" if path == made else "adapter_model")
        after = _weights(model)
        for name, value in before.items():
            layer = name.removesuffix(".weight")
            if layer in LAYERS:
                down, up = (stored[f"base_model.model.{layer}.lora_{x}.weight"].double() for x in "AB")
                scale = _alpha(layer, patterns) / (math.sqrt(len(down)) if root else len(down))
                expected = value + 0.5 * scale * (up @ down).reshape(value.shape)
                torch.testing.assert_close(after[name], expected, rtol=1e-5, atol=1e-5)
            else:
                assert torch.equal(after[name], value)
    merged = lv.load(folder, lora={made: 0.5})
    assert all(torch.equal(v, after[n]) for n, v in _weights(merged).items())


def test_peft_computes_the_same(folder: Path, tmp_path: Path) -> None:
    peft, diffusers = pytest.importorskip("peft"), pytest.importorskip("diffusers")
    made = _peft(folder, tmp_path / "style", RANKS, rank_pattern=RANKS, alpha_pattern=ALPHAS, use_rslora=True)
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    theirs = peft.PeftModel.from_pretrained(unet, str(made)).merge_and_unload().state_dict()
    ours = _weights(lv.load(folder, lora={made: 1.0}))
    assert set(theirs) == set(ours)
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name].double(), value, rtol=1e-5, atol=1e-5)


def test_settings_that_cannot_be_meant_are_refused(folder: Path, tmp_path: Path) -> None:
    model = lv.load(folder)
    refused: dict[str, dict[str, Any]] = {
        "init_lora_weights 'pissa', which also changes the weights": {"init_lora_weights": "pissa"},
        "is of LOHA, and LoRA alone": {"peft_type": "LOHA"},
        "is of DoRA, and LoRA alone": {"use_dora": True},
        "and no number": {"lora_alpha": "16"},
        "where numbers by layer should be": {"alpha_pattern": [1]},
        "at most 3 plain repetitions": {"alpha_pattern": {"(a+)+b": 1}},
        "which is no regular expression": {"alpha_pattern": {"(": 1}},
    }
    for k, (said, config) in enumerate(refused.items()):
        with pytest.raises(ValueError, match=said):
            adapting.add_lora(model, _peft(folder, tmp_path / str(k), {}, **config))
    (tmp_path / "0" / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config\.json is damaged"):
        adapting.add_lora(model, tmp_path / "0")
    assert not any("lora" in name for name, _ in model.denoiser.named_modules())
    # settings are of peft's own file, and not of another that lies beside it
    other = save(tmp_path / "1" / "other.safetensors", load(tmp_path / "1" / "adapter_model.safetensors"))
    assert adapting.add_lora(model, other)["unet"]
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds no safetensors file; give one file"):
        adapting.add_lora(model, tmp_path / "none")
    for name in "ab":
        save(tmp_path / "none" / f"{name}.safetensors", {"x": torch.ones(1)})
    with pytest.raises(ValueError, match=r"holds a\.safetensors, b\.safetensors; give one file of them"):
        adapting.add_lora(model, tmp_path / "none")


class Hub:
    """The hub and its cache on this machine, with what was fetched."""

    def __init__(self, root: Path, files: dict[str, bytes]) -> None:
        self.files, self.commit, self.fetched = files, "c" * 40, list[str]()
        self.cache = root / "models--owner--name"
        self.snapshot = self.cache / "snapshots" / self.commit

    def model_info(self, name: str, revision: str | None = None) -> Any:
        siblings = [type("File", (), {"rfilename": f}) for f in self.files]
        return type("Info", (), {"sha": self.commit, "siblings": siblings})

    def download(self, name: str, revision: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
        assert (name, revision) == ("owner/name", self.commit)
        for file in allow_patterns:
            data = self.files[file]
            blob = self.cache / "blobs" / hashlib.sha256(data).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(data)
            path = self.snapshot / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_symlink():
                path.symlink_to(os.path.relpath(blob, path.parent))
            self.fetched.append(file)
        return str(self.snapshot)


def test_one_file_of_a_repository_is_fetched_alone(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    style = _peft(folder, tmp_path / "style", {})
    model = lv.load(folder)
    vectors = {"text_encoder": torch.ones(1, adapting.sides(model)["text_encoder"].width)}
    word = write_embedding(tmp_path / "toy.safetensors", "<toy>", vectors).read_bytes()
    weights = (style / "adapter_model.safetensors").read_bytes()
    inside = {file: (style / file).read_bytes() for file in ("adapter_config.json", "adapter_model.safetensors")}
    others = {"big.safetensors": weights, "toy.safetensors": word}
    owner = Hub(tmp_path, {f"sub/{f}": data for f, data in inside.items()} | others)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: owner)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", owner.download)
    monkeypatch.chdir(tmp_path)
    adapting.add_lora(model, "owner/name/sub/adapter_model.safetensors", 0.5)
    assert owner.fetched == ["sub/adapter_model.safetensors", "sub/adapter_config.json"]
    adapting.merge(model, "adapter_model")
    ours, theirs = _weights(model), _weights(lv.load(folder, lora={style: 0.5}))
    assert all(torch.equal(v, theirs[n]) for n, v in ours.items())
    assert adapting.add_word(model, "owner/name/toy.safetensors@main") == "<toy>"
    assert owner.fetched[2:] == ["toy.safetensors"]
    with pytest.raises(ValueError, match=r"owner/name has no file gone\.safetensors"):
        adapting.add_lora(model, "owner/name/gone.safetensors")
    (tmp_path / "owner").mkdir()  # a slip in a path of this machine is no question to the hub
    with pytest.raises(ValueError, match=r"owner/name/sub/adapter_model\.safetensors does not exist\."):
        adapting.add_lora(model, "owner/name/sub/adapter_model.safetensors")


def test_no_picture_has_anything_fetched(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A record of anyone's, which names repositories, and what of them to take."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_fetched", lambda *asked: pytest.fail(f"{asked} was fetched"))
    style, picture = _peft(folder, tmp_path / "style", {}), tmp_path / "cat.png"
    command = ["generate", str(folder), "--device", "cpu", "--out", str(tmp_path / "again.png")]
    main([*command[:-1], str(picture), "a cat", "--steps", "1", "--size", "32x32", "--lora", "style:0.5"])
    record = read_record(picture)
    assert record["loaded"]["lora"] == ["style:0.5"]
    main([*command, "--again", str(picture)])  # what is here is taken
    with Image.open(picture) as drawn, Image.open(tmp_path / "again.png") as again:
        assert drawn.tobytes() == again.tobytes()
        image = drawn.copy()
    evil = {"lora": ["evil/repo:1.0"], "word": ["evil/words"], "revision": "refs/pr/1", "variant": "\x1b[2Jfp16"}
    for name, value in evil.items():
        save_png(image, picture, {**record, "loaded": {name: value}})
        path = "evil/model" if name == "revision" else str(folder)  # a folder has no revision to choose
        with pytest.raises(SystemExit):
            main(["generate", path, *command[2:], "--again", str(picture)])
        told = capsys.readouterr().err
        assert f"cat.png was drawn with {name} " in told and f"say --{name}." in told and "\x1b" not in told
    save_png(image, picture, {**record, "loaded": evil})
    with pytest.raises(SystemExit):
        main([*command, "--again", str(picture), "--lora", str(style)])
    assert "word evil/words, which is not here; say --word." in capsys.readouterr().err


def test_a_record_knows_the_files_of_an_id(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    style, other = (_peft(folder, tmp_path / name, {}, lora_alpha=alpha) for name, alpha in (("style", 16), ("other", 2)))
    save(other / "adapter_model.safetensors", {n: 2 * v for n, v in load(style / "adapter_model.safetensors").items()})
    monkeypatch.chdir(tmp_path)
    place = style

    def fetched(name: str, *asked: Any) -> Any:
        assert name == "owner/name"
        return hub.Resolved(place, name, "c" * 40)

    monkeypatch.setattr(hub, "_fetched", fetched)
    command = ["generate", str(folder), "a cat", "--steps", "1", "--size", "32x32", "--out", str(tmp_path / "cat.png")]
    main([*command, "--lora", "owner/name:0.5"])
    assert read_record(tmp_path / "cat.png")["loaded"]["files"] == {"owner/name": fingerprint(style)}
    place = other
    with pytest.raises(SystemExit):
        main([*command, "--again", str(tmp_path / "cat.png"), "--lora", "owner/name:0.5"])


def test_a_folder_of_a_single_file_is_that_file(goldens: Goldens, tmp_path: Path) -> None:
    case = goldens.case("sd1", "txt2img_pndm")
    place, beside = tmp_path / "single", case.dir / "pipeline"
    place.mkdir()
    file = save(place / "v1.safetensors", load(case.dir / "original" / "v1.safetensors"))
    (place / "README.md").write_text("a model")
    assert detect(place).kind == "original"
    ours, theirs = (lv.load(path, beside=beside, configs=beside) for path in (place, file))
    for part, (net, _) in ours.parts.items():
        other = theirs.parts[part][0].state_dict()
        assert all(torch.equal(v, other[n]) for n, v in net.state_dict().items())
    assert ours.fingerprint == theirs.fingerprint
    save(place / "other.safetensors", {"x": torch.ones(1)})
    with pytest.raises(ValueError, match=r"or one of its files, other\.safetensors, v1\.safetensors"):
        lv.load(place)


def test_strengths_are_of_files_folders_and_ids(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "a:b").mkdir()
    words = ["x.safetensors", "x.safetensors:0.5", "folder", "folder:2", "owner/name:-1", f"{tmp_path}/a:b"]
    said = [("x.safetensors", 1.0), ("x.safetensors", 0.5), ("folder", 1.0), ("folder", 2.0), ("owner/name", -1.0)]
    found = [next(iter(strengths([word]).items())) for word in words]
    assert found == [*((Path(f), s) for f, s in said), (tmp_path / "a:b", 1.0)]
    with pytest.raises(Refusal, match="or one with :STRENGTH"):
        strengths(["folder:much"])
    style = _peft(folder, tmp_path / "style", {})
    command = ["generate", str(folder), "a cat", "--steps", "1", "--size", "32x32", "--out", str(tmp_path / "cat.png")]
    main([*command, "--lora", f"{style}:0.5"])
    assert (tmp_path / "cat.png").exists()
