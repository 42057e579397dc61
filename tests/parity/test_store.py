"""Files of published checkpoints: what their own libraries wrote is told for what it is, and read to the last bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from langevin.zoo.convert import convert_file
from langevin.zoo.detect import ORIGINALS, detect
from langevin.zoo.layouts.single import LAYOUTS, PARTS, flat
from langevin.zoo.store import open_weights
from tests.parity.test_layouts import FILES

OLD = (".bin", ".pt", ".pth", ".ckpt")


def files(goldens, *suffixes) -> list[Path]:
    assert goldens.families
    return sorted(p for p in goldens.root.rglob("*") if p.suffix in suffixes)


def same(ours, theirs):
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and torch.equal(ours[name], value), name


def test_safetensors_are_read_as_their_library_reads_them(goldens):
    for path in files(goldens, ".safetensors"):
        same(open_weights(path), load_file(path))


def test_old_files_are_read_as_torch_reads_them(goldens, tmp_path):
    for path in files(goldens, *OLD):
        written = convert_file(path, tmp_path / "x.safetensors", "all")
        tree = torch.load(path, weights_only=True)
        same(open_weights(written.target), flat(tree))


def test_pipelines_and_components_are_told_by_their_class(goldens):
    for path in [p.parent for p in files(goldens, ".json") if p.name == "model_index.json"]:
        found, index = detect(path), json.loads((path / "model_index.json").read_text())
        parts = {k for k, v in index.items() if isinstance(v, list) and v[1] is not None}
        assert (found.kind, found.name) == ("pipeline", index["_class_name"]) and {p.name for p in found.parts} == parts
        assert not found.needs, (path, found.needs)
        total = sum(v.numel() for p in path.rglob("*.safetensors") for v in load_file(p).values())
        assert found.count == total and found.memory(32) == 4 * total
    for path in [p.parent for p in files(goldens, ".json") if p.name == "config.json"]:
        config = json.loads((path / "config.json").read_text())
        named = config.get("_class_name") or config["architectures"][0]
        found = detect(path)
        assert (found.kind, found.name) == ("component", named)
        old = not list(path.glob("*.safetensors"))
        assert any("langevin convert" in need for need in found.needs) == old


def test_layouts_are_one_table():
    assert {name: tuple((p.component, p.prefix, p.part) for p in places) for name, places in LAYOUTS.items()} == {
        name: original.parts for name, original in ORIGINALS.items()
    }
    assert {part for original in ORIGINALS.values() for _, _, part in original.parts} == set(PARTS)


@pytest.mark.parametrize(("family", "case", "file", "layout"), [row[:4] for row in FILES])
def test_originals_are_told_as_they_are_opened(goldens, tmp_path, family, case, file, layout):
    path = goldens.case(family, case).dir / "original" / file
    found = detect(path)
    assert (found.kind, found.name) == ("original", layout)
    old = path.suffix != ".safetensors"
    assert any("langevin convert" in need for need in found.needs) == old
    if old:
        written = convert_file(path, tmp_path / "x.safetensors")
        assert (detect(written.target).name, detect(written.target).count) == (layout, found.count)


def test_adapters_are_told_by_their_format(goldens):
    case = goldens.case("lora", "sd1").dir
    told = {"peft/pytorch_lora_weights": "peft", "old/pytorch_lora_weights": "diffusers-processors", "kohya/lora": "kohya"}
    for name, kind in told.items():
        found = detect(case / f"{name}.safetensors")
        assert (found.kind, found.name) == ("lora", kind) and "rank" in found.title


def test_variants_and_shards(goldens):
    root = goldens.case("formats", "variants").dir
    whole = load_file(root / "safetensors" / "diffusion_pytorch_model.safetensors")
    same(open_weights(root / "sharded"), whole)
    for variant, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        same(open_weights(root / variant, variant), {n: v.to(dtype) for n, v in whole.items()})
        same(open_weights(root / variant), {n: v.to(dtype) for n, v in whole.items()})  # there is no other
