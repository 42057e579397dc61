"""The format of checkpoints: every kind of tensor comes back bit for bit, and nothing but what was written is accepted."""

import hashlib
import json
import random
import resource
import shutil
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

import langevin as lv
from langevin import tensors
from langevin.header import Entry, encode
from langevin.inspection import describe
from langevin.manifest import Manifest, Shard, encode_manifest, read_manifest
from langevin.training import Checkpoints, load_latest
from langevin.training.checkpoint import read
from langevin.training.folder import same_words, usual
from tests.reliability.keeping import SMALL, every_kind, files, same, save
from tests.soaking import Soak

GOLDEN = Path(__file__).with_name("golden")


def test_every_kind_of_tensor_comes_back(tmp_path):
    written = every_kind()
    found = read(save(tmp_path, 7, written, {"note": "é", "rate": 1e-05, "list": [1, None, True]}))
    assert found.step == 7 and found.state == {"note": "é", "rate": 1e-05, "list": [1, None, True]}
    assert same(found.tensors, written) and set(found.code) >= {"langevin", "torch"}


def test_files_are_those_of_the_safetensors_library(tmp_path):
    kinds = {name: value.resolve_conj().contiguous() for part in every_kind().values() for name, value in part.items()}
    ours = tensors.save(tmp_path / "a.safetensors", kinds)
    assert ours.read_bytes() == safetensors.torch.save(kinds)
    told = safetensors.torch.save({"w": torch.ones(2)}, {"key": "value"})
    (tmp_path / "b.safetensors").write_bytes(told)
    assert tensors.metadata(tmp_path / "b.safetensors") == {"key": "value"}
    assert same({"": tensors.load(ours)}, {"": kinds})


@pytest.mark.parametrize("limit", [1, 40, 100, 10**9])
def test_shards_hold_what_one_file_would(tmp_path, limit):
    many = {"model": {f"layer.{i}": torch.full((i, 3), float(i)) for i in range(8)}, "none": {}}
    path = save(tmp_path, 1, many, shard_bytes=limit)
    found = read(path)
    assert same(found.tensors, many) and list(found.tensors["model"]) == list(many["model"])
    sizes = [sum(e.size for e in s.entries or ()) for s in read_manifest(path).parts["model"]]
    held = [len(s.entries or ()) for s in read_manifest(path).parts["model"]]
    assert all(size <= limit or count == 1 or size == 0 for size, count in zip(sizes, held, strict=True))
    assert sum(held) == 8 and (len(held) == 1) == (limit == 10**9)


def test_only_the_parts_asked_for_are_read(tmp_path):
    path = save(tmp_path, 1)
    (path / "model.safetensors").write_bytes(b"")
    assert read(path, parts=("empty",)).tensors == {"empty": {}}
    with pytest.raises(ValueError, match="has no part 'ema'; it has model, empty"):
        read(path, parts=("ema",))


def test_the_same_state_is_the_same_bytes(tmp_path):
    a, b = (save(tmp_path / n, 1, every_kind()) for n in "ab")
    assert files(a) == files(b)


@pytest.mark.parametrize(("value", "why"), [
    (torch.zeros(2, dtype=torch.complex128), "torch.complex128 strided tensor on cpu"),
    (torch.zeros(2, 2).to_sparse(), "sparse_coo tensor"),
    (torch.empty(2, device="meta"), "tensor on meta"),
    (3.0, "a is a float"),
])  # fmt: skip
def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path, value, why):
    with pytest.raises(ValueError, match=why):
        save(tmp_path, 1, {"model": {"a": value}})
    for part in ("", "a/b", "..", "a-b", "x" * 65, "a\0"):
        with pytest.raises(ValueError, match="name it with letters"):
            save(tmp_path, 1, {part: {}})
    for state in ({"a": float("nan")}, {"a": object()}, {"a": torch.ones(1)}):
        with pytest.raises(ValueError, match="not what JSON can say"):
            save(tmp_path, 1, SMALL, state)
    assert not list(tmp_path.iterdir())


# Earlier formats


@pytest.mark.parametrize("number", [1, 2])
def test_every_format_ever_written_is_read(number):
    found = read(GOLDEN / f"format-{number}" / "step-00000003")
    kinds = {
        "f64": torch.tensor([0.1, -2.5], dtype=torch.float64), "f32": torch.arange(6.0).reshape(2, 3),
        "f16": torch.tensor([1.5], dtype=torch.float16), "bf16": torch.tensor([[0.5], [3.0]], dtype=torch.bfloat16),
        "i64": torch.tensor(7), "u8": torch.tensor([1, 255], dtype=torch.uint8), "bool": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 3), "nan": torch.tensor([float("nan"), float("inf")]),
    }  # fmt: skip
    assert same(found.tensors, {"kinds": kinds, "none": {}})
    assert found.state == {"note": f"written by version 0.1.0 in format {number}", "rate": 1e-05}
    assert "every hash agrees" in describe(found.path, check=True)
    run = load_latest(GOLDEN / f"format-{number}", parts=("model", "ema", "optimiser", "objective"), fallback=True)
    assert run is not None and run.step == 2 and run.tensors["model"].keys() == run.tensors["ema"].keys()


def test_a_run_of_an_earlier_format_goes_on(tmp_path):
    # both were written by the same training, so their tensors are the same
    one, two = (read(GOLDEN / f"format-{n}" / "step-00000002") for n in (1, 2))
    assert same(one.tensors, two.tensors) and one.state["what"] == two.state["what"]
    shutil.copytree(GOLDEN / "format-1", tmp_path / "checkpoints")
    kept = Checkpoints(tmp_path / "checkpoints")
    kept.save(4, SMALL, {})
    assert [p.name for p in kept.list()] == ["step-00000003", "step-00000004"]  # old ones count, and are retired


def test_a_newer_format_is_refused(tmp_path):
    path = save(tmp_path, 1) / "manifest.json"
    path.write_text(json.dumps({"format": 3}))
    with pytest.raises(ValueError, match=r"manifest\.json has checkpoint format 3; this version reads 1 to 2"):
        read(path.parent)


# Damage


def refused(path, match=None, parts=None):
    """The one line with which a checkpoint is refused; quickly, in little memory, and leaving everything as it was."""
    before = files(path.parent)
    began, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=match) as error:
        read(path, parts)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # kB
    assert time.process_time() - began < 2
    assert files(path.parent) == before
    said = str(error.value)
    assert "\n" not in said and str(path) in said and len(said) < 600
    return said


def cut_everywhere(folder, every=1):
    """Cut the manifest of the newest checkpoint at every byte: the older one is used, and the newer one named."""
    path = folder / "step-00000020" / "manifest.json"
    whole = path.read_bytes()
    older = files(folder / "step-00000010")
    for length in range(0, len(whole), every):
        path.write_bytes(whole[:length])
        refused(path.parent, r"step-00000020/manifest\.json")
        found = load_latest(folder)
        assert found is not None and found.step == 10
    assert files(folder / "step-00000010") == older
    path.write_bytes(whole)
    return -(-len(whole) // every)


def two(folder, tensors=SMALL, **settings):
    for step in (10, 20):
        save(folder, step, tensors, {"note": step, "rate": 1e-05}, **settings)
    return folder / "step-00000020"


def test_every_cut_of_the_manifest_is_refused(tmp_path, capsys):
    two(tmp_path)
    cuts = cut_everywhere(tmp_path)
    said = capsys.readouterr().err
    assert said.count("passed over a checkpoint") == cuts and "step-00000020/manifest.json is damaged" in said


def test_every_flipped_bit_of_the_manifest_is_refused(tmp_path):
    path = two(tmp_path) / "manifest.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="step-00000020/manifest"):
            read(path.parent)


def forge(path, change):
    """Rewrite a manifest as an attacker would, its digest in agreement."""
    fields = json.loads((path / "manifest.json").read_bytes())
    fields.pop("digest")
    change(fields)
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps({**fields, "digest": digest}))


def damaged(rng, good, step):
    """One damage of many kinds to a checkpoint; what is said must match the answer."""
    shards = sorted(p.name for p in good.glob("*.safetensors"))
    name = rng.choice(shards)
    data = bytearray((good / name).read_bytes())
    head = 8 + int.from_bytes(data[:8], "little")
    kind = rng.randrange(14)
    said = name
    if kind == 0:
        del data[rng.randrange(len(data)) :]
    elif kind == 1:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        data = bytearray((good / rng.choice([n for n in shards if n != name])).read_bytes())  # another shard
    elif kind == 3:  # the same shard of another step
        data = bytearray((good.parent / step / name).read_bytes())
    elif kind == 4:
        data = bytearray()
    elif kind == 5:
        data[:8] = rng.choice([2**63, 2**64 - 1, 100_000_001, len(data), 0]).to_bytes(8, "little")
    elif kind == 6:
        data += rng.randbytes(rng.randrange(1, 50))
    elif kind in (7, 8, 9, 10):
        # the header: another dtype or shape, a name twice, offsets that leave a hole or overlap; the length as it was
        text = bytes(data[8:head])
        pairs = {7: (b'"F32"', b'"I32"'), 8: (b"[4,3]", b"[3,4]"), 9: (b'"b"', b'"w"'), 10: (b"[0,", b"[4,")}
        old, new = pairs[kind]
        changed = text.replace(old, new, 1)
        data[8:head] = changed if changed != text else text.replace(b"{", b"[", 1)
    elif kind == 11:
        (good / name).unlink()
        (good / name).symlink_to(good.parent / step / name)
        return name
    elif kind == 12:
        (good / name).unlink()
        return name
    else:
        text = (good / "manifest.json").read_bytes()
        doubled = [b'{"format": 2, ' + text[1:], text.replace(b'"state": ', b'"state": {}, "state": ', 1), text + b" ",
                   text.replace(b": ", b":", 1), text.replace(b"1e-05", b"1E-05", 1)]  # fmt: skip
        (good / "manifest.json").write_bytes(rng.choice(doubled))
        return "manifest.json"
    (good / name).write_bytes(bytes(data))
    return said


def thousand(folder, count, seed, soak=None):
    torch.manual_seed(seed)
    big = {"model": {"w": torch.randn(4, 3), "b": torch.ones(4, 3), "k": torch.arange(3)}, "ema": {"w": torch.randn(4, 3)}}
    save(folder, 10, {p: {n: v + 1 for n, v in d.items()} for p, d in big.items()}, {"rate": 1e-05}, shard_bytes=60)
    good = save(folder, 20, big, {"rate": 1e-05}, shard_bytes=60)
    keep, rng = files(good), random.Random(seed)
    for _ in range(count):
        said = damaged(rng, good, "step-00000010")
        refused(good, said.replace(".", r"\."))
        found = load_latest(folder)
        assert found is not None and found.step == 10
        with pytest.raises(ValueError, match="step-00000020"):
            load_latest(folder, fallback=False)
        for name, content in keep.items():
            (good / name).unlink(missing_ok=True)
            (good / name).write_bytes(content)
        if soak is not None:
            soak.done()
    assert read(good).step == 20


def test_a_thousand_damaged_checkpoints(tmp_path, capsys):
    thousand(tmp_path, 1000, seed=0)


@pytest.mark.soak
def test_many_thousand_damaged_checkpoints(tmp_path, capsys):
    soak = Soak(capsys, "R4", 20_000, "damaged checkpoints")
    for seed in range(1, 11):
        thousand(tmp_path / str(seed), 2000, seed, soak)
    soak.over("all refused, each in one line, below 2 s and 200 MB, and the one before was used")
    many = {"model": {f"layer.{i}.weight": torch.ones(2, dtype=torch.bfloat16) for i in range(50)}, "empty": {}}
    two(tmp_path / "cut", many)
    cuts = cut_everywhere(tmp_path / "cut")
    Soak(capsys, "R2", 0, "").say(f"manifest cut at each of {cuts:,} bytes: the older checkpoint was used, the newer named\n")


@pytest.mark.parametrize("name", [
    "../step-00000010/model.safetensors", "/etc/passwd", "a/b.safetensors", "model\0.safetensors", "x" * 4096, "CON", "",
    "C:\\x.safetensors", "\\\\host\\share", "model.safetensors/", "./model.safetensors", "manifest.json",
])  # fmt: skip
def test_names_in_a_manifest_do_not_lead_out(tmp_path, name):
    path = two(tmp_path)

    forge(path, lambda fields: fields["parts"]["model"][0].update(file=name))
    refused(path, r"manifest\.json is no manifest of format 2: it names the file")
    old = tmp_path / "old"
    shutil.copytree(GOLDEN / "format-1" / "step-00000003", old / "step-00000003")
    fields = json.loads((old / "step-00000003" / "manifest.json").read_bytes())
    fields["hashes"] = {name: "0"}
    del fields["digest"]
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    (old / "step-00000003" / "manifest.json").write_text(json.dumps({**fields, "digest": digest}, indent=1))
    refused(old / "step-00000003", "it names the file")


@pytest.mark.parametrize("change", [
    lambda f: f.update(step=90), lambda f: f.update(step=-1), lambda f: f.update(step="20"), lambda f: f.update(step=10**30),
    lambda f: f.update(parts={}, trust_remote_code=True), lambda f: f.update(auto_map={"a": "b"}), lambda f: f.pop("code"),
    lambda f: f["parts"].update({"../x": []}), lambda f: f["parts"].update(model=[]), lambda f: f.update(parts=[]),
    lambda f: f["parts"]["model"][0].update(bytes=2**62), lambda f: f["parts"]["model"][0].update(bytes=-1),
    lambda f: f["parts"]["model"][0].update(sha256=5), lambda f: f["parts"]["model"][0].update(tensors={"w": ["F32", [2**62]]}),
    lambda f: f["parts"]["model"][0]["tensors"].update(w=["F32", [2**40, 2**40]]),
    lambda f: f["parts"]["model"][0]["tensors"].update(w=["F32", [-1, -6]]),
    lambda f: f["parts"]["model"][0]["tensors"].update(w=["F32", [True, 6]]),
    lambda f: f["parts"]["model"][0]["tensors"].update(w=["F32", [1] * 1000]),
    lambda f: f["parts"]["model"][0]["tensors"].update(w=["F4", [2, 3]]),
    lambda f: f["parts"]["model"][0]["tensors"].update(w=["F32", [2, 3], "os.system"]),
    lambda f: f["parts"]["model"][0]["tensors"].update(w={"class": "torch.nn.Linear"}),
    lambda f: f["parts"]["model"][0]["tensors"].update(w=["F32", [3, 2]]),
    lambda f: f["parts"]["model"][0]["tensors"].update(w=["I32", [2, 3]]),
    lambda f: f.update(format=True), lambda f: f.update(format=None), lambda f: f.update(format=1),
])  # fmt: skip
def test_a_forged_manifest_is_refused(tmp_path, change):
    path = two(tmp_path)
    forge(path, change)
    refused(path, "step-00000020")
    for text in ("[]", "5", "null", "{}", "[1]", '{"format": 2}', '"', ""):
        (path / "manifest.json").write_text(text)
        refused(path, r"manifest\.json")


def test_a_manifest_beyond_its_limit_is_neither_written_nor_read(tmp_path):
    with pytest.raises(ValueError, match="keep less in the state"):
        save(tmp_path, 1, SMALL, {"long": "x" * 9_000_000})
    assert not list(tmp_path.iterdir())
    path = two(tmp_path)
    (path / "manifest.json").write_bytes(b"[" * 9_000_000)
    refused(path, "above the 8388608 it may have")
    (path / "manifest.json").write_bytes(b'{"a":' * 1_000_000)
    refused(path, "nested too deeply")


def test_a_file_that_agrees_with_a_forged_manifest_must_still_be_a_safetensors_file(tmp_path):
    # hashes prove that nothing changed, not that nothing is wrong: the header follows from the manifest, byte for byte
    path = two(tmp_path)
    w = Entry("w", "F32", (2,))
    for data in (encode([w])[:-1] + b"}" + bytes(8), b"\0" * 16 + encode([w]), encode([w], {"auto_map": "x"}) + bytes(8)):
        (path / "model.safetensors").write_bytes(data)
        shard = Shard("model.safetensors", hashlib.sha256(data).hexdigest(), len(data), (w,))
        (path / "manifest.json").write_bytes(encode_manifest(Manifest(20, {"model": (shard,)}, {})))
        refused(path, "step-00000020")


def test_inspection_tells_and_verifies(tmp_path):
    path = two(tmp_path, every_kind(), shard_bytes=50)
    said = describe(path, check=True)
    assert "step-00000020: step 20" in said and "format 2, written by langevin" in said and "every hash agrees" in said
    assert "nothing: 0 tensors, 0 values" in said and "files" in said
    shard = sorted(path.glob("kinds-00001-of-*.safetensors"))[0]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert "every hash" not in describe(path)  # its headers are in order
    with pytest.raises(ValueError, match=r"kinds-00001-of-\d+.safetensors does not match its hash"):
        describe(path, check=True)
    shard.write_bytes(data[:-1])
    assert f"{shard} has" in describe(path)


def test_a_run_goes_on_where_a_setting_that_only_one_side_says_is_at_its_usual_value():
    from langevin.objectives import Denoising, Masking, MeanFlow, Shortcut

    def one(was, now):
        return same_words(was, " ".join(str(now).split()), usual(now))

    for before in ("Masking(drop=0.1)", "Masking(drop=0.1, seen=0)", "Masking(seen=0, drop=0.1)"):
        assert one(before, Masking(0.1)) and not one(before, Masking(0.1, seen=0.5)) and not one(before, Masking(0.2))
    assert one("Masking(drop=0.1, seen=0.5)", Masking(0.1, seen=0.5)) and not one("Masking(drop=0.1, seen=0.5)", Masking(0.1))
    assert not one("Masking(drop=0.1, gone=1)", Masking(0.1)), "what is not known any more is not passed over"
    assert not one("Shuffling(drop=0.1)", Masking(0.1))
    words = " ".join(str(Shortcut()).split())
    exact = lv.oracles.mixture(lv.Gaussian(lv.schedules.flow()), torch.zeros(1, 2), 1.0)
    assert ", guidance=1" in words and one(words.replace(", guidance=1", ""), Shortcut())
    assert not one(words, Shortcut(teacher=exact, guidance=2.0))
    # one name may be usual at two values, in two modules: said on both sides, it must be the same
    flow = MeanFlow()
    other = " ".join(str(flow).split()).replace(f"mean={flow.mean:g}", "mean=0")
    assert {"0", f"{flow.mean:g}"} <= usual(torch.nn.ModuleList([flow, Denoising(levels="logit_normal")]))["mean"]
    assert not one(other, flow)
