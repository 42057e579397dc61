"""Published checkpoints are hostile until read: whatever stands in them, they load as they are or are refused in one sentence.

Foreign files have no hashes to compare: where a value was changed and the structure is whole, the network holds that value.
LANGEVIN_FUZZ_SEED draws other ones.
"""

import hashlib
import io
import json
import os
import random
import re
import shutil
import struct
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from torch import nn

import langevin as lv
from langevin.cli import main
from langevin.tensors import save
from langevin.zoo.convert import convert_file, convert_folder
from langevin.zoo.detect import detect
from langevin.zoo.family import published, unset
from langevin.zoo.hub import resolve
from langevin.zoo.load import load
from langevin.zoo.registry import component
from langevin.zoo.store import open_weights
from tests.security.mutants import mutated, rearranged
from tests.security.test_fuzz import quiet
from tests.security.test_no_code import no_unpickling  # noqa: F401

EVENTS = {
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.getaddrinfo",
    "ctypes.dlopen",
}  # fmt: skip
CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "shutil.rmtree"}
SEED = int(os.environ.get("LANGEVIN_FUZZ_SEED", 0))
watched: list[Path] = []
ZOO = str(Path(lv.__file__).parent / "zoo")


def _audit(event, args):
    if not watched:
        return
    if event in EVENTS or (event == "import" and "evil" in str(args[0])):
        raise AssertionError(f"a checkpoint made {event} {str(args)[:200]}")
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes and isinstance(args[0], (str, Path))) or event in CHANGES:
        path = Path(os.fsdecode(args[0]))
        if path.is_absolute() and not path.is_relative_to(watched[0]) and reading():  # others are in a folder that is open
            raise AssertionError(f"a checkpoint wrote: {event} {path}")


def reading() -> bool:
    """Whether it is the reader of checkpoints that is at work, and not a test."""
    frame = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith(ZOO):
        frame = frame.f_back
    return frame is not None


sys.addaudithook(_audit)  # cannot be taken back, so it looks at a list


@pytest.fixture
def quarantine(tmp_path, no_unpickling):  # noqa: F811
    """Nothing is run, fetched or imported while a test reads, and nothing is written but below this folder."""
    folder = tmp_path / "written"
    folder.mkdir()
    watched.append(folder)
    yield folder
    watched.clear()


TEXT = {
    "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": 30, "hidden_size": 8,
    "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 9, "eos_token_id": 2,
    "hidden_act": "quick_gelu",
}  # fmt: skip
DIT = {
    "_class_name": "DiTTransformer2DModel", "num_attention_heads": 2, "attention_head_dim": 4, "in_channels": 4,
    "out_channels": 8, "num_layers": 2, "sample_size": 4, "patch_size": 2, "num_embeds_ada_norm": 10,
    "activation_fn": "gelu-approximate",
}  # fmt: skip


def weights_of(config):
    """The tensors of a published component, drawn from its own seed."""
    part = component(config.get("_class_name") or config["architectures"][0])
    with unset():
        net = part.build(config)
    generator = torch.Generator().manual_seed(3)
    for value in net.state_dict(keep_vars=True).values():
        if value.is_floating_point():
            value.data = torch.randn(value.shape, generator=generator)
        else:
            value.data.zero_()
    return {name: value.clone() for name, value in published(net, part.keys(config, net)).items()}


def folder_of(path, config, shards=0):
    """A component's folder as it is published."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    tensors = weights_of(config)
    stem = "diffusion_pytorch_model" if "_class_name" in config else "model"
    if not shards:
        save(path / f"{stem}.safetensors", tensors)
        return path
    names = sorted(tensors)
    files = [f"{stem}-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    told = {name: files[i % shards] for i, name in enumerate(names)}
    for file in files:
        save(path / file, {n: tensors[n] for n in names if told[n] == file})
    (path / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": told}))
    return path


def copied(source, target):
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def state(path) -> str:
    """Of all that is below a folder."""
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        total.update(f"{file} {file.lstat().st_mode} {os.readlink(file) if file.is_symlink() else ''}".encode())
        total.update(file.read_bytes() if file.is_file() else b"")
    return total.hexdigest()


def shapes(net):
    assert isinstance(net, nn.Module)
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def same(a, b):
    return set(a) == set(b) and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and raw(a[n]) == raw(b[n]) for n in a
    )  # fmt: skip


def raw(value):
    return bytes(value.detach().contiguous().view(-1).view(torch.uint8).numpy()) if value.numel() else b""


# A thousand


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    root = tmp_path_factory.mktemp("good")
    return {
        "text": folder_of(root / "text", TEXT),
        "dit": folder_of(root / "dit", DIT),
        "sharded": folder_of(root / "sharded", TEXT, shards=3),
    }


def test_four_hundred_folders(good, tmp_path, quarantine):
    rng, loaded = random.Random(0 + SEED), 0
    wanted = {name: shapes(load(path)) for name, path in good.items()}
    for k in range(400):
        name = rng.choice(list(good))
        path = copied(good[name], tmp_path / str(k))
        for file in rng.sample(sorted(path.iterdir()), rng.choice([1, 1, 1, 2])):
            data = file.read_bytes()
            if file.suffix == ".json":
                data = (rearranged if rng.random() < 0.7 else mutated)(rng, data)
            elif rng.random() < 0.3:
                data = mutated(rng, data)
            else:  # a header that is as long as it says
                length = int.from_bytes(data[:8], "little")
                head = (rearranged if rng.random() < 0.5 else mutated)(rng, data[8 : 8 + length])
                data = struct.pack("<Q", len(head)) + head + data[8 + length :]
            other = rng.choice(sorted(path.iterdir()))
            kind = rng.randrange(12)
            if kind == 0:
                file.unlink()
            elif kind == 1:  # shards changed for one another, a configuration for weights
                file.write_bytes(other.read_bytes())
            elif kind == 2:
                file.unlink()
                file.symlink_to(good[name] / file.name)
            else:
                file.write_bytes(data)
        before = state(path)
        with quiet(seconds=5):
            net = load(path)
            assert shapes(net) == wanted[name]
            loaded += 1
        with quiet(seconds=5):
            str(detect(path))
        assert state(path) == before
    assert loaded < 120 and state(quarantine) == state(quarantine)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Files of torch.save: new and old, bare and of a training program."""
    root = tmp_path_factory.mktemp("old")
    flat = torch.arange(40.0)
    tensors = {
        "a.weight": flat[:12].view(3, 4), "a.bias": flat[12:15], "b": flat.view(5, 8).t()[1:3], "half": flat[:6].half(),
        "n": torch.tensor(3), "none": torch.zeros(0, 2), "f8": flat[:4].to(torch.float8_e4m3fn),
    }  # fmt: skip
    made = {}
    for name, tree in {
        "bare": tensors,
        "training": {"state_dict": tensors, "epoch": 3, "callbacks": {torch.optim.Adam: [1.5]}},
    }.items():
        for zipped in (True, False):
            path = root / f"{name}-{zipped}.ckpt"
            torch.save(tree, path, _use_new_zipfile_serialization=zipped)
            made[path] = tensors
    return made


def rewritten(data: bytes, change) -> bytes:
    """An archive whose program was changed, with checksums that agree: what a careful attacker would write."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(made, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, change(content) if name.endswith("/data.pkl") else content)
    return made.getvalue()


def test_four_hundred_old_files(old, tmp_path, quarantine):
    rng, loaded = random.Random(1 + SEED), 0
    source, target = tmp_path / "x.ckpt", quarantine / "x.safetensors"
    for _ in range(400):
        path = rng.choice(list(old))
        data = path.read_bytes()
        careful = data[:2] == b"PK" and rng.random() < 0.6
        source.write_bytes(rewritten(data, lambda d: mutated(rng, d)) if careful else mutated(rng, data))
        with quiet(seconds=5):
            convert_file(source, target)
            made = open_weights(target)
            assert made.size <= 4 * source.stat().st_size
            # what has checksums is as it was or is refused
            assert careful or data[:2] != b"PK" or same(dict(made), old[path])
            loaded += 1
        assert not [p for p in quarantine.iterdir() if p != target]
        target.unlink(missing_ok=True)
        with quiet(seconds=5):
            str(detect(source))
    assert 0 < loaded < 250


def test_two_hundred_pipelines_are_told(good, tmp_path, quarantine):
    rng = random.Random(2 + SEED)
    index = {
        "_class_name": "DiTPipeline", "_diffusers_version": "0.30.0", "transformer": ["diffusers", "DiTTransformer2DModel"],
        "text_encoder": ["transformers", "CLIPTextModel"], "scheduler": ["diffusers", "DDIMScheduler"],
    }  # fmt: skip
    for k in range(200):
        path = tmp_path / str(k)
        path.mkdir()
        copied(good["dit"], path / "transformer")
        copied(good["text"], path / "text_encoder")
        (path / "scheduler").mkdir()
        (path / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "DDIMScheduler", "num_train_timesteps": 1000}')
        (path / "model_index.json").write_bytes((rearranged if rng.random() < 0.7 else mutated)(rng, json.dumps(index).encode()))
        if rng.random() < 0.5:
            file = path / rng.choice(["scheduler/scheduler_config.json", "transformer/config.json", "text_encoder/config.json"])
            file.write_bytes(rearranged(rng, file.read_bytes()))
        before = state(path)
        with quiet(seconds=5):
            assert str(detect(path)).startswith(f"{k}: ")
        with quiet(seconds=5):
            load(path)
        assert state(path) == before


# Programs


class Call:
    """Unpickles to a call."""

    def __init__(self, program):
        self.program = program


def program(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def archive(path, data: bytes, storages=None, name="x", method=zipfile.ZIP_STORED, more=None):
    with zipfile.ZipFile(path, "w", method) as made:
        made.writestr(f"{name}/data.pkl", data)
        made.writestr(f"{name}/version", "3\n")
        for key, values in (storages or {}).items():
            made.writestr(f"{name}/data/{key}", values)
        for key, values in (more or {}).items():
            made.writestr(key, values)
    return path


def refused(path, out, match, **given):
    before = state(out)
    with quiet(seconds=2), pytest.raises(ValueError, match=match) as error:
        convert_file(path, out / "made.safetensors", **given)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    assert state(out) == before
    with quiet(seconds=2), pytest.raises(ValueError, match=match):
        detect(path)


# each is a way in that a guard of one module's names would miss (ComfyUI#12286)
CALLS = [
    "os system", "posix system", "nt system", "builtins exec", "builtins eval", "__builtin__ eval", "builtins getattr",
    "builtins __import__", "importlib import_module", "runpy run_path", "subprocess Popen", "subprocess check_output",
    "webbrowser open", "pty spawn", "code interact", "pickle loads", "_pickle loads", "torch load", "torch.jit load",
    "torch.hub load", "torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_qtensor", "torch._dynamo.utils dynamo_timed",
    "torch.utils.bottleneck.__main__ run_cprofile", "torch.serialization load", "numpy.f2py.crackfortran myeval",
    "numpy.testing._private.utils runstring", "ctypes CDLL", "socket create_connection", "shutil rmtree", "operator attrgetter",
    "functools partial", "types CodeType", "marshal loads", "evil_module Evil", "__main__ Evil", "collections namedtuple",
    "numpy load", "transformers AutoModel.from_pretrained", "diffusers.utils get_class_from_dynamic_module",
]  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", ["zip", "zip-stack", "inst", "legacy"])
def test_no_name_of_a_file_is_called(tmp_path, quarantine, name, kind):
    module, _, last = name.partition(" ")
    mark = tmp_path / "was-here"
    argument = text(f"touch {mark}")
    if kind == "zip-stack":
        data = b"\x80\x04" + text(module) + text(last) + b"\x93" + argument + b"\x85R."
    elif kind == "inst":
        data = program(b"(", argument, f"i{module}\n{last}\n".encode())
    else:
        data = program(f"c{module}\n{last}\n".encode(), argument, b"\x85R")
    path = tmp_path / "x.ckpt"
    if kind == "legacy":
        head = (
            program(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19") + program(b"M\xe9\x03") + program(b"}", text("little_endian"), b"\x88s")
        )
        path.write_bytes(head + data + program(b"]"))
    else:
        archive(path, data)
    refused(path, quarantine, r"names .*not run|has the instruction 'i'|has the instruction i")
    assert not mark.exists()


def test_objects_of_training_programs_are_passed_over_and_never_made(tmp_path, quarantine):
    state_dict = {"w": torch.ones(2)}
    data = torch.save({"state_dict": state_dict, "epoch": 1}, tmp_path / "x.ckpt")
    inert = program(
        b"}(", text("callbacks"), b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n)R}(", text("a"), b"K\x01ub",
        text("w"), b"ctorch._utils\n_rebuild_tensor_v2\n((", text("storage"), b"ctorch\nFloatStorage\n", text("0"), text("cpu"),
        b"K\x02tQK\x00K\x02\x85K\x01\x85\x89Nt", b"Ru",
    )  # fmt: skip
    values = struct.pack("<2f", 1, 2)
    written = convert_file(archive(tmp_path / "a.ckpt", inert, {"0": values}), quarantine / "a.safetensors")
    assert open_weights(written.target)["w"].tolist() == [1, 2] and "1 objects" in str(written) and data is None
    # a name of one's own, on request, and then as a name
    own = inert.replace(b"pytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint", b"evil_module\nEvil")
    refused(archive(tmp_path / "b.ckpt", own, {"0": values}), quarantine, r"names evil_module\.Evil.*--ignore evil_module\.Evil")
    convert_file(tmp_path / "b.ckpt", quarantine / "b.safetensors", ignored=["evil_module.Evil"])
    # one that passes nothing over, as none that is there, or that stays a name anyway, changes nothing and is refused
    (folder := tmp_path / "published").mkdir()
    shutil.copy(tmp_path / "b.ckpt", folder / "pytorch_model.bin")
    for idle in ("evil_module.Devil", "torch.FloatStorage", "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"):
        refusal = re.escape(f"ignore is {idle}, and ") + ".* has no such name that would be refused; leave it out"
        with pytest.raises(ValueError, match=refusal):
            convert_file(tmp_path / "b.ckpt", quarantine / "c.safetensors", ignored=["evil_module.Evil", idle])
        with pytest.raises(ValueError, match=refusal):
            convert_folder(folder, quarantine / "c", ["evil_module.Evil", idle])
    assert not (quarantine / "c.safetensors").exists() and not (quarantine / "c").exists()
    assert any("1 objects" in line for line in convert_folder(folder, quarantine / "c", ["evil_module.Evil"]))


def tensor(storage="FloatStorage", key="0", count=b"K\x04", offset=b"K\x00", shape=b"K\x02K\x02\x86", stride=b"K\x02K\x01\x86"):
    return b"".join((
        b"ctorch._utils\n_rebuild_tensor_v2\n((", text("storage"), f"ctorch\n{storage}\n".encode(), text(key), text("cpu"), count,
        b"tQ", offset, shape, stride, b"\x89Nt", b"R",
    ))  # fmt: skip


VALUES = struct.pack("<4f", 1, 2, 3, 4)
WRONG = {
    "beyond its storage": ({"offset": b"K\x01"}, VALUES, "does not fit its storage of 4 values"),
    "a stride beyond": ({"stride": b"K\x03K\x01\x86"}, VALUES, "does not fit"),
    "many from one": ({"shape": b"J\xff\xff\xff\x7fK\x02\x86", "stride": b"K\x00K\x00\x86"}, VALUES, "does not fit"),
    "a negative size": ({"shape": b"J\xff\xff\xff\xffK\x02\x86"}, VALUES, "no numbers, or too large"),
    "a negative offset": ({"offset": b"J\xff\xff\xff\xff"}, VALUES, "no numbers, or too large"),
    "a negative stride": ({"stride": b"J\xff\xff\xff\xffK\x01\x86"}, VALUES, "no numbers, or too large"),
    "a size that is no number": ({"shape": b"\x88\x88\x86"}, VALUES, "no numbers, or too large"),
    "a huge size": ({"shape": b"\x8a\x09" + b"\xff" * 8 + b"\x00" + b"K\x02\x86"}, VALUES, "no numbers, or too large"),
    "sizes and strides of two lengths": ({"stride": b"K\x01\x85"}, VALUES, "no numbers, or too large"),
    "fewer values than it says": ({}, VALUES[:12], "should have 16 bytes and has 12"),
    "more values than it says": ({}, VALUES + b"x", "should have 16 bytes and has 17"),
    "no values": ({"key": "7"}, VALUES, "should have 16 bytes and has none"),
    "a key that leads elsewhere": ({"key": "../../x"}, VALUES, r"storage '\.\./\.\./x'"),
    "a storage of an unknown kind": ({"storage": "QInt8Storage"}, VALUES, r"names torch\.QInt8Storage"),
    "complex values of 16 bytes": ({"storage": "ComplexDoubleStorage"}, VALUES, r"names torch\.ComplexDoubleStorage"),
}


@pytest.mark.parametrize("name", WRONG)
def test_tensors_stay_within_their_bytes(tmp_path, quarantine, name):
    # CVE-2026-24747: sizes in the program that the archive does not bear out
    given, values, match = WRONG[name]
    refused(archive(tmp_path / "x.pt", program(b"}", text("w"), tensor(**given), b"s"), {"0": values}), quarantine, match)


ODD = {
    "an item set on a tensor": b"}" + text("w") + tensor() + b"s0" + tensor() + text("a") + b"K\x01s",  # CVE-2026-24747
    "an item added to a tensor": tensor() + b"K\x01a",
    "an odd number of items": b"}(" + text("w") + tensor() + b"K\x01u",
    "an empty stack": b"R",
    "a mark as a value": b"}(0" + text("w") + b"(s",
    "a mark remembered": b"(q\x00",
    "what was not said": b"h\x09",
    "a call of a number": b"K\x01)R",
    "a call with no tuple": b"ccollections\nOrderedDict\n]R",
    "ordered pairs that are none": b"ccollections\nOrderedDict\n]K\x01a\x85R",
    "a tensor of nothing": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    "a parameter of a number": b"ctorch._utils\n_rebuild_parameter\nK\x01\x85R",
    "a text that breaks off": b"X\xff\xff\xff\x7fabc",
    "a long number": b"\x8b\xff\xff\xff\x7f",
    "a decimal that is none": b"Fabc\n",
    "digits without end": b"I" + b"9" * 5000 + b"\n",
    "an extension": b"\x82\x01",
    "a buffer from outside": b"\x97",
    "a persistent name": b"Pabc\n",
    "a name with spaces": b"cos; import x\nsystem\n",
    "bytes that are no text": b"X\x02\x00\x00\x00\xff\xfe",
    "two ends": b"K\x01K\x02",
    "nothing": b"",
}


@pytest.mark.parametrize("name", ODD)
def test_programs_that_make_no_sense(tmp_path, quarantine, name):
    path = archive(tmp_path / "x.pt", program(ODD[name]), {"0": VALUES})
    refused(path, quarantine, r"damaged|instruction|no storage|no name|holds no tensors|breaks off")


def test_containers_that_would_be_large(tmp_path, quarantine):
    # a list of lists of lists: small to say, large to walk (billion laughs), and one that holds itself
    doubled = b"]" + b"".join(b"q%c(h%ch%cl" % (i, i, i) for i in range(22)) + b"0"
    lists = b"]q\x00" + b"".join(b"(" + b"h%c" % i * 40 + b"lq%c" % (i + 1) for i in range(12))
    itself = b"]q\x00h\x00a"
    keys = b"}(" + b"".join(b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"N" for i in range(60_000)) + b"u"
    copies = (
        b"]q\x01(" + b"K\x01K\x02\x86" * 20_000 + b"e" + b"".join(b"ccollections\nOrderedDict\nh\x01\x85R0" for _ in range(2000))
    )
    deep = b"]" * 100_000 + b"a" * 99_999
    shape = b"]q\x00" + b"".join(b"(" + b"h%c" % i * 40 + b"tq%c" % (i + 1) for i in range(12))
    for data in (
        doubled,
        lists,
        itself,
        keys,
        copies,
        deep,
        tensor(shape=shape),
        b"(" * 500_000,
        b")" * 500_000 + b"\x85" * 400_000,
    ):
        path = archive(tmp_path / "x.pt", program(data), {"0": VALUES})
        with quiet(seconds=20, megabytes=300), pytest.raises(ValueError, match=r"x\.pt"):
            convert_file(path, quarantine / "x.safetensors")
    assert not list(quarantine.iterdir())
    # values that are used again and again: each tensor fits, together they would be a thousand times the file
    many = program(b"}(", *(text(f"w{i}") + tensor() for i in range(5)), b"u")
    row = torch.zeros(50_000)
    torch.save({str(i): row for i in range(50)}, tmp_path / "y.pt")
    refused_late(tmp_path / "y.pt", quarantine, "four times its own")
    convert_file(archive(tmp_path / "z.pt", many, {"0": VALUES}), quarantine / "z.safetensors")


def refused_late(path, out, match):
    with pytest.raises(ValueError, match=match):
        convert_file(path, out / "late.safetensors")
    assert not (out / "late.safetensors").exists()


# Archives


def test_archives_with_tricks(tmp_path, quarantine):
    path = tmp_path / "x.pt"
    fine = program(b"}", text("w"), tensor(), b"s")
    archive(path, fine, {"0": VALUES})
    whole = path.read_bytes()
    convert_file(path, quarantine / "fine.safetensors")
    assert open_weights(quarantine / "fine.safetensors")["w"].tolist() == [[1, 2], [3, 4]]

    def tried(match, data=None, **given):
        if data is None:
            archive(path, fine, {"0": VALUES}, **given)
        else:
            path.write_bytes(data)
        refused(path, quarantine, match)

    # zip slip, absolute and foreign names
    for name in ("../x", "/etc/x", "x/../../y", "C:\\x", "\\\\host\\share\\x", "x/./y"):
        tried(r"no name for values|none that torch.save writes", more={name: b"1"})
    tried("compressed", method=zipfile.ZIP_DEFLATED)  # and so no bomb: nothing is ever unpacked
    tried("none that torch.save writes", more={"y/data.pkl": fine})
    tried("program of torch.jit", more={"x/code/a.py": b"import os"})
    tried("other byte order", more={"x/byteorder": b"big"})
    tried("does not end as one", whole[:-1])
    tried("does not end as one", whole + b"MZ another file")
    tried("begins as none", b"MZ" + whole)
    tried(r"x\.pt", b"PK\x03\x04" + whole)
    at = whole.rindex(b"PK\x05\x06")
    tried("damaged", whole[:at] + b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 9, 9, 10, 10, 0))
    tried("damaged", whole[:at] + b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0))
    # two entries in the same bytes (the quoted overlap of zip bombs), two of one name, a checksum that does not agree
    rows = [m.start() for m in re.finditer(b"PK\x01\x02", whole)]
    last = bytearray(whole)
    last[rows[-1] + 42 : rows[-1] + 46] = whole[rows[0] + 42 : rows[0] + 46]
    tried("do not agree|bytes of another", bytes(last))
    values = bytearray(whole)
    values[whole.index(VALUES)] ^= 1
    path.write_bytes(bytes(values))
    refused_late(path, quarantine, "checksum")
    with zipfile.ZipFile(path, "w") as twice, pytest.warns(UserWarning, match="Duplicate"):
        for content in (fine, program(b"}")):
            twice.writestr("x/data.pkl", content)
    refused(path, quarantine, "twice")
    large = bytearray(whole)
    large[rows[-1] + 20 : rows[-1] + 28] = struct.pack("<2I", 2**31, 2**31)
    tried("bytes of another", bytes(large))


def test_a_tar_is_refused(tmp_path, quarantine):
    # CVE-2025-32434: the oldest format, by which weights_only was passed over
    path = tmp_path / "x.pt"
    with tarfile.open(path, "w") as made:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            data = program(b"cos\nsystem\n", text("true"), b"\x85R")
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    refused(path, quarantine, "no file of torch.save")


# Each by its name


def test_cve_2026_1839_no_state_beside_the_weights_is_read(good, tmp_path, quarantine):
    path = copied(good["text"], tmp_path / "x")
    for name in ("rng_state.pth", "training_args.bin", "optimizer.pt", "scheduler.pt", ".metadata", "__0_0.distcp"):
        (path / name).write_bytes(program(b"cos\nsystem\n", text("true"), b"\x85R"))  # .metadata: pytorch#189308
    assert shapes(load(path)) == shapes(load(good["text"]))
    assert "CLIPTextModel" in str(detect(path))
    with pytest.raises(ValueError, match="no old weights to convert"):
        convert_folder(path, quarantine / "made")
    assert not list(quarantine.iterdir())


def test_cve_2026_44513_no_code_of_a_repository_is_looked_for(good, tmp_path, quarantine):
    # GHSA-98h9-4798-4q5v: a gate in one branch, and three others that lead past it
    path = tmp_path / "x"
    path.mkdir()
    copied(good["dit"], path / "transformer")
    for name in ("pipeline.py", "transformer/evil_unet.py", "evil_pipeline.py"):
        (path / name).write_text("raise SystemExit('a file was run')")
    for index in (
        {"_class_name": ["evil_pipeline", "Evil"], "transformer": ["diffusers", "DiTTransformer2DModel"]},
        {"_class_name": "Evil", "custom_pipeline": "evil/repo", "transformer": ["evil_unet", "Evil"]},
        {"_class_name": "DiTPipeline", "transformer": ["evil_unet", "Evil"], "scheduler": ["evil_module", "Evil"]},
        {"_class_name": "DiTPipeline", "transformer": ["diffusers", "evil_unet.Evil"], "trust_remote_code": True},
    ):
        (path / "model_index.json").write_text(json.dumps(index))
        with quiet():
            detect(path)
        with pytest.raises(ValueError, match=r"is a|no family|missing|names no"):
            load(path)
    assert not any("evil" in name for name in sys.modules)


FIELDS = [
    "trust_remote_code", "auto_map", "_attn_implementation", "_attn_implementation_internal", "custom_pipeline", "_name_or_path",
    "quantization_config", "proxy_url", "_from_model_config",
]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_cve_2026_4372_and_5241_no_field_of_a_configuration_is_obeyed(good, tmp_path, quarantine, field):
    # and CVE-2026-28416: no address in it is asked
    for name, value in (("text", "evil/repo"), ("dit", {"AutoModel": "https://localhost:1/evil.Evil"}), ("dit", True)):
        path = copied(good[name], tmp_path / f"{name}-{type(value).__name__}")
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, field: value}))
        try:
            net = load(path)
        except ValueError as error:
            assert field in str(error)
        else:
            assert same(net.state_dict(), load(good[name]).state_dict())


def test_cve_2026_45804_what_was_checked_is_what_is_read(good, tmp_path, quarantine, monkeypatch):
    path = copied(good["text"], tmp_path / "x")
    weights = open_weights(path)
    before = {name: weights[name].clone() for name in weights}
    other = tmp_path / "other.safetensors"
    save(other, {name: torch.full_like(value, 666) for name, value in before.items()})
    os.replace(other, path / "model.safetensors")  # between the check and the reading
    assert same({name: weights[name] for name in weights}, before)
    # and of a repository: the commit that was listed is the one that is fetched, whatever the branch has come to
    import huggingface_hub

    listed, fetched, commit = "a" * 40, [], tmp_path / "models--o--n" / "snapshots" / ("a" * 40)
    copied_into(good["text"], commit)

    class Api:
        def model_info(self, name, revision=None):
            assert (name, revision) == ("o/n", "main")
            files = ["config.json", "model.safetensors", "evil.py", "pytorch_model.bin", "model.ckpt"]
            return type("Info", (), {"sha": listed, "siblings": [type("F", (), {"rfilename": f}) for f in files]})

    def download(name, revision=None, allow_patterns=None, local_files_only=False):
        fetched.append((revision, sorted(allow_patterns)))
        return str(commit)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = resolve("o/n@main")
    assert fetched == [(listed, ["config.json", "model.safetensors"])] and str(found) == f"o/n@{listed}"


def copied_into(source, target):
    target.parent.mkdir(parents=True)
    return copied(source, target)


def test_cve_2026_31221_settings_of_a_training_program_are_no_calls(tmp_path, quarantine):
    # and VU#252619: Lightning's load_from_checkpoint
    data = program(
        b"}(", text("w"), tensor(), text("hyper_parameters"), b"}(", text("_class_path"), b"cos\nsystem\n", text("_instantiator"),
        text("evil_module.instantiate"), b"uu",
    )  # fmt: skip
    refused(archive(tmp_path / "x.ckpt", data, {"0": VALUES}), quarantine, r"names os\.system")


def test_a_damaged_safe_file_is_no_reason_to_read_an_unsafe_one(good, tmp_path, quarantine):
    # CVE-2026-24747's neighbours, and Stanza's loader: falling back is what an attacker asks for
    path = copied(good["text"], tmp_path / "x")
    (path / "pytorch_model.bin").write_bytes(program(b"cos\nsystem\n", text("true"), b"\x85R"))
    for data in (b"", b"{}", (path / "model.safetensors").read_bytes()[:-1]):
        (path / "model.safetensors").write_bytes(data)
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            load(path)
    (path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="langevin convert"):
        load(path)
    for name in ("a.bin", "a.ckpt", "a.pt", "a.pth"):
        with pytest.raises(ValueError, match="langevin convert"):
            open_weights(tmp_path / name)


def test_cve_2025_62164_sparse_tensors_are_refused(tmp_path, quarantine):
    sparse = torch.sparse_coo_tensor([[0, 10**9]], [1.0, 2.0], (2 * 10**9,), check_invariants=True)
    torch.save({"w": sparse}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", quarantine, r"names torch\._utils\._rebuild_sparse_tensor|names torch\.sparse_coo")


NAMES = [
    "../x.safetensors", "/etc/passwd", "C:\\x.safetensors", "\\\\host\\share\\x.safetensors", "x\0.safetensors",
    "a/b.safetensors", "..", ".", "", "NUL", "x.bin", "pytorch_model-00001-of-00002.bin", "model-00001-of-00002.safetensors/../x",
    "x" * 4096,
    "model\n-00001-of-00002.safetensors", "https://localhost:1/model-00001-of-00002.safetensors", "-00001-of-00002.safetensors",
    "../model-00001-of-00002.safetensors", "CON-00001-of-00002.safetensors:x", 5, None, ["a"], {},
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda n: str(n)[:30].encode("unicode_escape").decode())
def test_cve_2026_28414_an_index_names_files_beside_it(good, tmp_path, quarantine, name):
    path = copied(good["sharded"], tmp_path / "x")
    index = path / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    first = next(iter(told["weight_map"]))
    told["weight_map"][first] = name
    index.write_text(json.dumps(told))
    with quiet(), pytest.raises(ValueError, match=r"index\.json (names|has no weight_map)"):
        load(path)


def test_an_index_and_its_files_agree(good, tmp_path, quarantine):
    path = copied(good["sharded"], tmp_path / "x")
    index = path / "model.safetensors.index.json"
    whole, files = json.loads(index.read_text()), sorted(path.glob("*.safetensors"))
    told = whole["weight_map"]
    first = next(iter(told))

    def tried(changed, match):
        index.write_text(json.dumps({"weight_map": changed}))
        with pytest.raises(ValueError, match=match):
            load(path)

    tried({**told, "more": files[0].name}, "lacks 'more'")
    tried({n: f for n, f in told.items() if n != first}, "which .* does not name")
    tried({**told, first: next(f.name for f in files if f.name != told[first])}, "do not belong together")
    tried({n: f for n, f in told.items() if f == files[0].name}, "some are missing")
    tried({n: f.replace("00003.", "00004.") for n, f in told.items()}, "some are missing")
    index.write_text(json.dumps(whole))
    data = [f.read_bytes() for f in files]
    files[0].write_bytes(data[1])  # a shard for another, as of another step
    with pytest.raises(ValueError, match="do not belong together"):
        load(path)
    files[0].unlink()
    with pytest.raises(ValueError, match=r"missing, and .*index\.json names it"):
        load(path)
    files[0].write_bytes(data[0])
    assert same(load(path).state_dict(), load(good["text"]).state_dict())


def test_links_are_followed_in_the_cache_of_huggingface_hub_alone(good, tmp_path, quarantine):
    # ComfyUI#12285: a link in what was fetched shows any file of the machine
    secret = tmp_path / "secret.json"
    secret.write_text('{"password": "x"}')
    for file in ("config.json", "model.safetensors"):
        path = copied(good["text"], tmp_path / f"x-{file}")
        (path / file).unlink()
        (path / file).symlink_to(secret if file == "config.json" else good["text"] / file)
        with pytest.raises(ValueError, match="is a link") as error:
            load(path)
        assert "password" not in str(error.value)
    pipeline = tmp_path / "p"
    pipeline.mkdir()
    (pipeline / "model_index.json").write_text(
        '{"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"]}'
    )
    (pipeline / "transformer").symlink_to(good["dit"])
    for attempt in (detect, load):
        with pytest.raises(ValueError, match="is a link"):
            attempt(pipeline)
    # what the user names may itself be a link
    (tmp_path / "mine").symlink_to(good["text"])
    assert same(load(tmp_path / "mine").state_dict(), load(good["text"]).state_dict())

    cache = tmp_path / "models--owner--name"
    snapshot = cache / "snapshots" / ("0123456789" * 4)
    (cache / "blobs").mkdir(parents=True)
    (snapshot / "part").mkdir(parents=True)
    for folder, up in ((snapshot, "../.."), (snapshot / "part", "../../..")):
        for file in good["text"].iterdir():
            data = file.read_bytes()
            blob = cache / "blobs" / hashlib.sha256(data).hexdigest()
            blob.write_bytes(data)
            (folder / file.name).symlink_to(f"{up}/blobs/{blob.name}")
        assert same(load(folder).state_dict(), load(good["text"]).state_dict())
        assert "CLIPTextModel" in str(detect(folder))
    for target in (secret, "../../../secret.json", "../../blobs/../../secret.json", "../../blobs/x", "../../refs/main"):
        (snapshot / "config.json").unlink()
        (snapshot / "config.json").symlink_to(target)
        with pytest.raises(ValueError, match="is a link"):
            load(snapshot)
    blob = cache / "blobs" / ("a" * 64)
    blob.symlink_to(secret)  # a blob that is a link itself
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(f"../../blobs/{blob.name}")
    with pytest.raises(ValueError, match="a link"):
        load(snapshot)


def test_configurations_are_bounded(good, tmp_path, quarantine):
    path = copied(good["dit"], tmp_path / "x")
    config = path / "config.json"
    whole = json.loads(config.read_text())
    for change, match in (
        ({"num_layers": 2**40}, "no network has more than 1000|give a value like"),
        ({"num_layers": "2"}, "num_layers is '2'"),
        ({"num_layers": True}, "num_layers is True"),
        ({"num_layres": 2}, "did it mean 'num_layers'"),
        ({"attention_head_dim": 10**40}, "beyond 1e38"),
        ({"patch_size": 0}, "x"),
        ({"sample_size": -1}, "x"),
        ({"sample_size": [[[[[[[[[[1]]]]]]]]]]}, "nested more than"),
    ):
        config.write_text(json.dumps({**whole, **change}))
        with quiet(), pytest.raises(ValueError, match=match):
            load(path)
    for text_, match in (
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": NaN}', "NaN is no JSON"),
        ("[]", "holds a list"),
        ("[" * 10_000, "nested too deeply"),
        ('{"a": "' + "x" * 2**20 + '"}', "above the 1048576"),
        ('{"a": ' + "9" * 10_000 + "}", "damaged"),
        ("\ufeff{}", "damaged"),
    ):
        config.write_text(text_)
        with quiet(), pytest.raises(ValueError, match=match):
            load(path)


def test_errors_tell_no_addresses(good, tmp_path, quarantine):
    # CVE-2026-22778: a library's error text gave away where its memory lies
    rng = random.Random(4 + SEED)
    path = copied(good["dit"], tmp_path / "x")
    whole = (path / "config.json").read_bytes()
    for _ in range(60):
        (path / "config.json").write_bytes(rearranged(rng, whole))
        try:
            load(path)
        except ValueError as error:
            assert not re.search(r"0x[0-9a-f]{6,}", str(error)), error


# It works


def test_old_files_become_the_same_tensors(tmp_path):
    flat = torch.arange(24.0)
    shared = flat.view(4, 6)
    tensors = {
        "plain": shared.clone(), "turned": shared.t(), "steps": shared[1:3, ::2], "again": shared, "one": torch.tensor(3),
        "none": torch.zeros(0, 3), "expanded": torch.ones(1, 3).expand(1, 3), "parameter": nn.Parameter(shared[0]),
        "bool": torch.tensor([True, False]),
        **{str(d): flat.to(d) for d in (
            torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
            torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32,
        )},
        "inside": flat.to(torch.float8_e5m2).view(4, 6)[1:, 2:],
    }  # fmt: skip
    for zipped in (True, False):
        for protocol in (2, 3, 4, 5):
            torch.save(tensors, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
            written = convert_file(tmp_path / "x.pt", tmp_path / "x.safetensors")
            assert same(dict(open_weights(tmp_path / "x.safetensors")), tensors)
            assert written.sha256 == hashlib.sha256((tmp_path / "x.pt").read_bytes()).hexdigest()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    convert_file(tmp_path / "net.pth", tmp_path / "net.safetensors")
    assert same(dict(open_weights(tmp_path / "net.safetensors")), net.state_dict())
    torch.save(net, tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"holds a torch\.nn\.modules\.container\.Sequential.*save its state_dict"):
        convert_file(tmp_path / "whole.pth", tmp_path / "whole.safetensors")


def test_parts_of_training_programs(tmp_path, capsys):
    a, b = {"w": torch.ones(2)}, {"w": torch.zeros(2)}
    trees = {
        "dit": ({"model": a, "ema": b, "opt": {"state": {0: {"exp": torch.ones(3)}}}, "args": None}, "ema", {"w"}),
        "lightning": ({"state_dict": a, "optimizer_states": [{"state": b}], "epoch": 2}, "state_dict", {"w"}),
        "score": ({"model": a, "ema": {"decay": 0.9, "shadow_params": [b["w"]]}, "optimizer": {"x": b}}, "model and ema",
                  {"model.w", "ema.shadow_params.0"}),
        "bare": (a, "all", {"w"}),
    }  # fmt: skip
    for name, (tree, part, names) in trees.items():
        path, out = tmp_path / f"{name}.ckpt", tmp_path / f"{name}.safetensors"
        torch.save(tree, path)
        assert convert_file(path, out).part.name == part and set(open_weights(out)) == names
    main(["convert", str(tmp_path / "dit.ckpt"), str(tmp_path / "m.safetensors"), "--part", "model"])
    assert same(dict(open_weights(tmp_path / "m.safetensors")), a) and "left out: 'ema' (1), 'opt' (1)" in capsys.readouterr().out
    for part in ("nothing", "args"):
        with pytest.raises(ValueError, match=r"has no tensors in the part .*'ema' \(1\)"):
            convert_file(tmp_path / "dit.ckpt", tmp_path / "x.safetensors", part)
    torch.save({"left": a, "right": b}, tmp_path / "two.ckpt")
    with pytest.raises(ValueError, match=r"'left' \(1\), 'right' \(1\); choose one with --part"):
        convert_file(tmp_path / "two.ckpt", tmp_path / "x.safetensors")
    # the order of an average without names tells whose it is
    many = [torch.full((1,), float(i)) for i in range(12)]
    torch.save({"model": {f"p{11 - i}": v for i, v in enumerate(many)}, "ema": {"shadow_params": many}}, tmp_path / "order.pth")
    convert_file(tmp_path / "order.pth", tmp_path / "order.safetensors")
    names = open_weights(tmp_path / "order.safetensors").names
    assert names == [f"model.p{11 - i}" for i in range(12)] + [f"ema.shadow_params.{i}" for i in range(12)]


def test_a_folder_is_converted(good, tmp_path, capsys):
    path = copied(good["dit"], tmp_path / "p")
    (path / "part").mkdir()
    tensors = dict(open_weights(good["sharded"]))
    names = sorted(tensors)
    told = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(names)}
    for file in set(told.values()):
        torch.save({n: tensors[n] for n in names if told[n] == file}, path / "part" / file)
    (path / "part" / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": told}))
    (path / "part" / "config.json").write_text(json.dumps(TEXT))
    (path / "part" / "evil.py").write_text("raise SystemExit")
    main(["convert", str(path), str(tmp_path / "new")])
    assert "part/evil.py left out" in capsys.readouterr().out and not list((tmp_path / "new").rglob("*.py"))
    assert same(load(tmp_path / "new" / "part").state_dict(), load(good["text"]).state_dict())
    assert same(load(tmp_path / "new").state_dict(), load(good["dit"]).state_dict())
    with pytest.raises(ValueError, match="exists"):
        convert_folder(path, tmp_path / "new")


def test_weights_are_pages_of_their_file(good, tmp_path):
    path = copied(good["text"], tmp_path / "x")
    before = (path / "model.safetensors").read_bytes()
    weights = open_weights(path)
    first = weights.names[0]
    weights[first].fill_(7)  # of this process alone
    assert (weights[first] == 7).all() and (path / "model.safetensors").read_bytes() == before
    assert not (open_weights(path)[first] == 7).all()
    # saving over a file that is in use (safetensors#764)
    kept = {name: weights[name].clone() for name in weights}
    save(path / "model.safetensors", dict(weights))
    assert same(dict(weights), kept) and same(dict(open_weights(path)), kept)
    # bytes that are not where the processor wants them
    odd = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    (tmp_path / "odd.safetensors").write_bytes(struct.pack("<Q", len(odd)) + odd + struct.pack("<2f", 1, 2))
    assert len(odd) % 4 and open_weights(tmp_path / "odd.safetensors")["a"].tolist() == [1, 2]


def test_variants_are_chosen_by_name(good, tmp_path):
    path = tmp_path / "x"
    path.mkdir()
    tensors = {n: v.half() if v.is_floating_point() else v for n, v in open_weights(good["text"]).items()}
    (path / "config.json").write_text(json.dumps(TEXT))
    save(path / "model.fp16.safetensors", tensors)
    assert same(dict(open_weights(path)), tensors)  # there is no other
    with pytest.warns(UserWarning, match="'fp16' of x was taken"):
        assert load(path).token.weight.dtype == torch.float16
    with pytest.raises(ValueError, match="no weights of the variant 'bf16'; it has 'fp16'"):
        open_weights(path, "bf16")
    assert same(dict(open_weights(path, "fp16")), tensors)
    save(path / "model.bf16.safetensors", tensors)
    with pytest.raises(ValueError, match=r"choose variant='bf16' \(there are 'bf16', 'fp16'\)"):
        open_weights(path)
    (path / "model.bf16.safetensors").unlink()
    (path / "model.safetensors").write_bytes((good["text"] / "model.safetensors").read_bytes())
    assert load(path).token.weight.dtype == torch.float32 and load(path, variant="fp16").token.weight.dtype == torch.float16


def test_inspection_needs_no_torch(good, old, tmp_path):
    import subprocess

    code = "import sys\nfrom langevin.cli import main\nmain(['inspect', sys.argv[1]])\nassert 'torch' not in sys.modules"
    for path in (good["dit"], good["sharded"], good["text"] / "model.safetensors", next(iter(old))):
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert (path.name in done.stdout and "memory" in done.stdout) or path.suffix


def test_checksums_cover_the_values():
    assert zlib.crc32(b"123456789") == 0xCBF43926  # the archive's own
