"""No file can run code: nothing is unpickled, nothing is evaluated, and a field that names code is refused."""

import ast
import io
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import langevin as lv
from langevin.cli import main
from langevin.recipes.opening import open_run, read_recipe
from tests.reliability.keeping import save

SOURCE = Path(lv.__file__).parent
watching = [False]


def _audit(event, args):
    # raised by C and Python unpicklers alike, whatever they are reached by
    if watching[0] and event == "pickle.find_class":
        raise AssertionError(f"a file was unpickled: {args}")


sys.addaudithook(_audit)  # cannot be taken back, so it looks at a flag


@pytest.fixture
def no_unpickling(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a file was unpickled")

    class Refusing:
        """Torch's own modules, imported meanwhile, may make classes of it, and no objects."""

        def __init__(self, *args, **kwargs):
            refuse()

    real = np.load

    def load(*args, allow_pickle=False, **kwargs):
        assert not allow_pickle, "numpy was allowed to unpickle"
        return real(*args, allow_pickle=False, **kwargs)

    for module, names in ((pickle, ("load", "loads", "Unpickler", "_Unpickler")), (torch, ("load",)), (torch.jit, ("load",))):
        for name in names:
            monkeypatch.setattr(module, name, Refusing if "Unpickler" in name else refuse)
    monkeypatch.setattr(np, "load", load)
    watching[0] = True
    yield
    watching[0] = False


def test_the_trap_works(no_unpickling):
    data = b"cos\nsystem\n(S'true'\ntR."
    for attempt in (lambda: pickle.loads(data), lambda: torch.load(io.BytesIO(data)), lambda: np.load("x", allow_pickle=True)):
        with pytest.raises(AssertionError):
            attempt()


def test_nothing_is_unpickled_from_training_to_evaluation(tmp_path, no_unpickling, capsys):
    out = tmp_path / "run"
    short = ["--train.batch", "16", "--network.width", "8", "--samples", "20", "--train.save-every", "2", "--out", str(out)]
    main(["train", "two-moons", "--train.steps", "4", *short])
    main(["train", "two-moons", "--train.steps", "4", *short, "--resume"])
    main(["sample", str(out), "--count", "4", "--plan", "euler:2", "--out", str(tmp_path / "a.npy")])
    assert np.load(tmp_path / "a.npy").shape == (4, 2)
    main(["evaluate", str(out), "--count", "20"])
    main(["inspect", str(out), "--verify"])
    main(["plan", "show", "dpmpp:3", "--json"])
    assert "every hash agrees" in capsys.readouterr().out
    lv.data.digits()


FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "torch.load", "torch.jit.load", "torch.hub.load", "os.system", "os.popen",
    "os.execv", "yaml.load", "np.load", "numpy.load", "marshal.loads", "shelve.open", "runpy.run_path", "importlib.import_module",
}  # fmt: skip
MODULES = {"pickle", "cPickle", "_pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "yaml", "runpy"}
# the package's own names are loaded when they are first used; the names are constants of that file, or of files of the package
ALLOWED = {
    ("__init__.py", "importlib.import_module"), ("zoo/registry.py", "importlib.import_module"), ("data/arrays.py", "np.load"),
}  # fmt: skip
# a stream's "pipe:" is a command that the user writes in a program; no recipe and no file can hold one
SHELL = {"data/stream.py"}


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_the_source_calls_nothing_that_runs_code(path):
    name = str(path.relative_to(SOURCE))
    for node, called in calls(path):
        assert called not in FORBIDDEN or (name, called) in ALLOWED, f"{name}:{node.lineno} calls {called}"
        for keyword in node.keywords:
            said = ast.unparse(keyword.value)
            assert (keyword.arg, said) not in {("allow_pickle", "True"), ("weights_only", "False")}, name
            assert (keyword.arg, said) != ("shell", "True") or name in SHELL, name
        if called in ("np.save", "numpy.save", "np.load", "numpy.load"):
            assert any(k.arg == "allow_pickle" for k in node.keywords), f"{name}:{node.lineno} leaves allow_pickle to numpy"
    for node in ast.walk(ast.parse(path.read_text())):
        found = {a.name.split(".")[0] for a in node.names} if isinstance(node, ast.Import) else set()
        found |= {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) else set()
        assert not found & MODULES, f"{name} imports {found & MODULES}"


# Config is data. Each field has been a way in elsewhere: CVE-2026-4372, CVE-2026-5241, CVE-2026-44513
FIELDS = ["trust_remote_code", "auto_map", "custom_pipeline", "_attn_implementation", "_target_", "__class__", "__reduce__",
          "class_path", "_class_name", "architectures", "url"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    main(
        [
            "train",
            "two-moons",
            "--train.steps",
            "2",
            "--train.batch",
            "8",
            "--network.width",
            "8",
            "--samples",
            "20",
            "--out",
            str(out),
        ]
    )
    return out


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("where", [(), ("network",), ("process",), ("train",), ("sample",), ("data",), ("objective",)])
def test_a_recipe_with_a_field_that_names_code_is_refused(run, tmp_path, field, where):
    fields = json.loads((run / "recipe.json").read_bytes())
    place = fields
    for name in where:
        place = place[name]
    place[field] = "os.system"
    (tmp_path / "recipe.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"recipe\.json is damaged at"):
        read_recipe(tmp_path)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_in_a_checkpoint_has_no_effect(run, tmp_path, field):
    from langevin.training import Checkpoints, load_latest
    from tests.reliability.keeping import same

    found = load_latest(run / "checkpoints")
    assert found is not None
    Checkpoints(tmp_path / "checkpoints").save(2, found.tensors, {**found.state, field: "os.system"})
    for name in ("recipe.json", "facts.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    a, b = (open_run(p).denoiser.state_dict() for p in (run, tmp_path))
    assert same({"": a}, {"": b})


def test_rows_of_a_plan_are_of_known_kinds(tmp_path):
    text = lv.plans.dpmpp(2).on(lv.schedules.cosine()).to_json()
    for kind in ("os.system", "Plan", "StateRow", "__import__", "langevin.core.plan.Row", "", 5, None, [], {}):
        fields = json.loads(text)
        fields["rows"][0]["kind"] = kind
        if kind is None:
            continue
        with pytest.raises(ValueError, match="this is no saved plan"):
            lv.Plan.from_json(json.dumps(fields))
    fields = json.loads(text)
    for place in (fields, fields["rows"][0]):
        place["trust_remote_code"] = True
        with pytest.raises(ValueError, match="this is no saved plan"):
            lv.Plan.from_json(json.dumps(fields))
        del place["trust_remote_code"]


# What is checked is what is loaded


def test_each_file_is_opened_once(tmp_path, monkeypatch):
    import os

    from langevin.training.checkpoint import read

    path = save(tmp_path, 1)
    opened, real = [], os.open
    monkeypatch.setattr(os, "open", lambda p, *a, **k: (opened.append(Path(p).name), real(p, *a, **k))[1])
    monkeypatch.setattr(io, "open", None)  # and in no other way
    read(path)
    assert sorted(opened) == ["empty.safetensors", "manifest.json", "model.safetensors"]


def test_a_file_exchanged_after_it_was_hashed_is_not_loaded(tmp_path, monkeypatch):
    from langevin.training import checkpoint

    path = save(tmp_path, 1)
    other = save(tmp_path / "other", 1, {"model": {"w": torch.full((2, 3), 666.0), "b": torch.ones(3, dtype=torch.bfloat16)}})
    real = checkpoint.check_hash

    def exchanged(file, shard, digest):
        real(file, shard, digest)
        file.write_bytes((other / "model.safetensors").read_bytes() if "model" in file.name else b"")

    monkeypatch.setattr(checkpoint, "check_hash", exchanged)
    assert float(checkpoint.read(path).tensors["model"]["w"].max()) == 5.0
