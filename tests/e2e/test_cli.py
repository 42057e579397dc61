"""The command line and the package, as a new user meets them."""

import gzip
import json
import os
import re
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import langevin as lv
from langevin.cli import main
from langevin.data import Arrays
from langevin.inspection import describe
from langevin.recipes import RECIPES, Recipe, recipe
from langevin.recipes.build import build
from langevin.recipes.drawing import draw
from langevin.recipes.opening import open_run
from langevin.recipes.starting import start
from langevin.tasks.transport import transport

ROOT = Path(__file__).parents[2]
SHORT = ["--train.steps", "2", "--train.batch", "4", "--samples", "60"]


def python(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=False)


def test_import_is_silent_and_light():
    done = python(
        "import langevin, sys; print(sorted(m for m in sys.modules if m in ('torch', 'numpy', 'PIL', 'rich', 'pydantic')))",
        "-W",
        "error",
    )
    assert done.returncode == 0 and done.stdout == "[]\n" and done.stderr == ""


@pytest.mark.parametrize(
    "args",
    [["--help"], ["train", "--help"], ["train", "digits", "--help"], ["sample", "--help"], ["edit", "--help"], ["recipes"]],
)
def test_help_needs_no_torch(args):
    code = f"""
import sys
from langevin.cli import main
try:
    main({args!r})
except SystemExit as end:
    assert not end.code
assert 'torch' not in sys.modules
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 100


def test_every_public_name_exists():
    for name in lv.__all__:
        assert getattr(lv, name) is not None
    assert set(lv.__all__) <= set(dir(lv))


def test_the_readmes_first_example_works_as_written(tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    short = re.sub(r"steps=\d+", "steps=2", code[1])  # the same lines, two updates instead of thousands
    assert short != code[1]
    exec(compile(short, "README.md", "exec"), {})
    assert list(tmp_path.glob("*.png"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Inputs for the recipes that read files."""
    root = tmp_path_factory.mktemp("inputs")
    digits = lv.data.digits("all")
    grey = ((digits.x[:60, 0] + 1) * 127.5).round().byte().numpy()  # pyright: ignore
    (root / "mnist").mkdir()
    pictures = np.kron(grey, np.ones((1, 4, 4), np.uint8))[:, 2:30, 2:30]
    for name, values in (("images-idx3", pictures), ("labels-idx1", digits.cond["label"][:60].byte().numpy())):  # pyright: ignore
        head = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
        (root / "mnist" / f"t10k-{name}-ubyte.gz").write_bytes(gzip.compress(head + values.tobytes()))
    for k in range(60):
        side = root / "images" / ("ab"[k % 2])
        side.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(grey[k], np.ones((5, 4), np.uint8))).save(side / f"{k}.png")
    (root / "emoji").mkdir()
    captions = []
    for k in range(60):
        name = f"{k}.png"
        Image.fromarray(np.kron(grey[k], np.ones((2, 2), np.uint8))).save(root / "emoji" / name)
        captions.append(json.dumps({"file": name, "text": f"the digit {['zero', 'one', 'two', 'three', 'four'][k % 5]}"}))
    (root / "emoji" / "captions.jsonl").write_text("\n".join(captions))
    lines = [f"name : {k}||A {food} pub is near the mill ." for k in range(30) for food in ("Thai", "Cuban")]
    (root / "e2e.txt").write_text("\n".join(lines))
    rings = [
        {"n": n, "edges": [*([i, (i + 1) % n] for i in range(n)), [0, chord]]} for n in (5, 6, 7, 8) for chord in range(2, 4)
    ]
    (root / "graphs.json").write_text(json.dumps(rings * 5))
    chains = [head + "C" * k + tail for k in range(1, 6) for head in ("C", "N", "O=C", "C#C") for tail in ("", "O", "F")]
    (root / "smiles.csv").write_text("\n".join(["smiles", *chains]))
    (root / "table.csv").write_text("\n".join(["a,b,c", *(f"{k},{k % 7},{(k * k) % 11}" for k in range(60))]))
    return root


TEXTS = [name for name in RECIPES if recipe(name).data.kind == "text"]
ENDING = {"e2e-embedding": ".txt", **dict.fromkeys(TEXTS, ".txt")}
FILES = {
    **dict.fromkeys([*TEXTS, "e2e-embedding"], "e2e.txt"),
    "table": "table.csv",
    **{name: "graphs.json" for name in RECIPES if recipe(name).data.kind == "graphs"},
    **{name: "smiles.csv" for name in RECIPES if recipe(name).data.kind == "molecules"},
}
FOLDERS = {"drawings": "emoji", "emoji": "emoji", "images": "images"}
FOLDERS |= {name: "mnist" for name in RECIPES if recipe(name).data.kind == "mnist"}
SMALL = [
    "--data.length",
    "16",
    "--network.width",
    "16",
    "--network.heads",
    "2",
    "--network.depth",
    "1",
    "--sample.plan",
    "ddpm:3",
]
NARROW = ["--network.width", "16", "--network.edge-width", "8", "--network.whole", "8", "--network.depth", "1"]
PLANS = {"community-edp": "annealed_langevin:2:per_level=2", "community-gdss": "splitting:3", "qm9-gdss": "splitting:3"}
EXTRA = {
    **dict.fromkeys(TEXTS, SMALL),
    **{
        name: [*NARROW, "--sample.plan", PLANS.get(name, "ddpm:3")]
        for name in RECIPES
        if recipe(name).data.kind in ("graphs", "molecules")
    },
    "drawings": ["--data.size", "16", "--data.held-out", "0.2", "--network.width", "16"],
    "shakespeare-blocks": [*SMALL, "--network.block", "4"],
    "e2e-embedding": ["--data.alphabet", "characters", "--data.length", "40", "--network.width", "16", "--sample.plan", "ddpm:3"],
    "emoji": ["--data.size", "16", "--data.held-out", "0.2", "--text.width", "16", "--text.vocabulary", "520"],
    "emoji-16to64": ["--network.width", "16"],
    "images": ["--data.size", "8", "--network.width", "8"],
    "mnist": ["--network.width", "8", "--data.test", "20"],
    "mnist-consistency": ["--network.width", "8", "--data.test", "20"],
    "mnist-unlabelled": ["--network.width", "8", "--data.test", "20"],
    "mnist-latent": ["--data.test", "20"],
    "transfer": ["--data.target.size", "8", "--data.source.size", "8", "--network.width", "8"],
}


@pytest.mark.parametrize("name", [n for n in RECIPES if recipe(n).process.kind != "none"])  # autoencoders draw nothing
def test_every_recipe_trains_samples_and_is_judged(name, folder, tmp_path, capsys):
    extra, ending = [*EXTRA.get(name, [])], ENDING.get(name, ".png")
    if name in FILES:
        extra += ["--data.path", str(folder / FILES[name])]
    if name in FOLDERS:
        extra += ["--data.folder", str(folder / FOLDERS[name])]
    if name == "emoji-16to64":
        extra += ["--data.of.folder", str(folder / "emoji"), "--data.of.size", "16", "--data.of.held-out", "0.2"]
    if name == "transfer":
        for side, kind in (("target", "a"), ("source", "b")):
            extra += [f"--data.{side}.folder", str(folder / "images" / kind)]
    if recipe(name).codec.origin is not None:
        coder = str(tmp_path / "coder")
        data = [word for flag, value in pairwise(extra) if flag.startswith("--data") for word in (flag, value)]
        narrow = ["--network.width", "8", "--data.no-labels"]
        main(["train", f"{name.removesuffix('-latent')}-autoencoder", *SHORT, *data, *narrow, "--out", coder])
        extra += [*narrow, "--codec.origin", coder]
    out = tmp_path / "run"
    main(["train", name, *SHORT, *extra, "--out", str(out)])
    printed = capsys.readouterr().out
    made = {p.name for p in out.iterdir()}
    assert {f"samples{ending}", "loss.png", "levels.png", "metrics.json", "recipe.json", "log.jsonl"} <= made
    card = json.loads((out / "metrics.json").read_text())["protocol"]
    assert card["samples"] == 60 and card["nfe"] > 0 and len(card["real"]["hash"]) == 16
    assert f"samples{ending}" in printed
    a, b = ((tmp_path / name).with_suffix(ending) for name in "ab")
    for path in (a, b):
        main(["sample", str(out), "--count", "3", "--seed", "5", "--out", str(path)])
    assert a.read_bytes() == b.read_bytes()
    text = describe(out)
    assert f"run of recipe {name}" in text and "step-00000002: step 2" in text


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    main(["train", "digits", *SHORT, "--out", str(out)])
    return out


def test_a_run_between_two_data_sets_begins_at_held_out_samples_of_the_other(tmp_path):
    out = tmp_path / "moved"
    main(["train", "digits-transfer", *SHORT, "--out", str(out)])
    begun, many = tmp_path / "begun.npy", tmp_path / "many.npy"
    main(["sample", str(out), "--count", "24", "--plan", "euler:1", "--out", str(many)])
    main(["sample", str(out), "--count", "2", "--plan", "euler:1", "--out", str(begun)])
    threes = of_digit("test", 3)
    assert len(threes) == 22
    x = np.load(many)
    assert np.abs(x[:2] - np.load(begun)).max() < 1e-5
    assert np.abs(x[22:] - x[:2]).max() < 1e-5  # in turn
    # two updates have taught it next to nothing, so that one step stays near where it begins
    model = open_run(out).denoiser
    moved = transport(model, lv.plans.parse("euler:1"), Arrays(threes)).ends.numpy()
    assert np.abs(x[:22] - moved).max() < 1e-5
    run = open_run(out)
    trained, held = run.train, run.test
    assert torch.equal(trained.data.x, of_digit("train", 8)) and torch.equal(trained.source.x, of_digit("train", 3))
    assert torch.equal(held.data.x, of_digit("test", 8)) and run.facts.classes is None
    # samples of one's own
    np.save(tmp_path / "own.npy", threes[5:8].numpy())
    own = ["--source", str(tmp_path / "own.npy"), "--plan", "euler:1", "--out", str(tmp_path / "moved.npy")]
    main(["sample", str(out), *own])
    assert np.abs(np.load(tmp_path / "moved.npy") - moved[5:8]).max() < 1e-5
    for k in range(2):
        grey = ((threes[k, 0] + 1) * 127.5).round().byte().numpy()
        (tmp_path / "folder").mkdir(exist_ok=True)
        Image.fromarray(grey).save(tmp_path / "folder" / f"{k}.png")
    main(["sample", str(out), "--source", str(tmp_path / "folder"), "--plan", "euler:1", "--out", str(tmp_path / "moved.npy")])
    assert np.abs(np.load(tmp_path / "moved.npy") - moved[:2]).max() < 0.02  # rounded to grey levels
    main(["sample", str(out), "--source", str(tmp_path / "folder"), "--out", str(tmp_path / "moved.png")])
    with Image.open(tmp_path / "moved.png") as page:
        assert page.height > page.width / 2  # what it began at above what became of it


def of_digit(split, digit):
    every = lv.data.digits(split)
    return every.x[every.cond["label"] == digit]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"process": {"kind": "gaussian"}}, "process 'interpolant'"),
        ({"data": {"kind": "digits"}}, "data 'transfer'"),
        ({"data": {"kind": "transfer", "target": {"kind": "moons"}}}, "make them agree"),
        ({"objective": {"kind": "denoising", "coupling": "optimal"}}, "coupling is 'optimal'; did you mean"),
        ({"sample": {"plan": "ddpm:5"}}, "use a deterministic plan"),
    ],
)
def test_a_transfer_whose_parts_do_not_fit_is_refused(changes, said):
    made = {**recipe("digits-transfer").model_dump(), **changes}
    with pytest.raises(ValueError, match=said):
        run = build(Recipe.model_validate(made))
        assert run.objective


def test_samples_do_not_depend_on_the_count(run, tmp_path):
    for count, name in ((3, "three.npy"), (8, "eight.npy")):
        main(["sample", str(run), "--count", str(count), "--plan", "ddpm:4", "--out", str(tmp_path / name)])
    three, eight = (np.load(tmp_path / n) for n in ("three.npy", "eight.npy"))
    assert np.abs(three - eight[:3]).max() < 1e-5


def test_evaluate_json_and_options(run, capsys):
    main(["evaluate", str(run), "--json", "--small", "--count", "40", "--plan", "ddim:3", "--guidance", "2"])
    result = json.loads(capsys.readouterr().out)
    assert result["protocol"]["plan"] == "ddim:3" and set(result["metrics"]) >= {"w=2", "fd_real"}


def test_animation_and_labels(run, tmp_path):
    main(["sample", str(run), "--count", "4", "--label", "3", "--guidance", "1.5", "--out", str(tmp_path / "a.gif")])
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames > 5  # pyright: ignore  # frames that are alike are stored once
    drawn = ["sample", str(run), "--count", "3", "--plan", "euler:1"]
    main([*drawn, "--out", str(tmp_path / "each")])
    main([*drawn, "--out", str(tmp_path / "x.npy")])
    x = np.load(tmp_path / "x.npy")
    for k, path in enumerate(sorted((tmp_path / "each").iterdir())):
        with Image.open(path) as one:
            assert np.array_equal(np.asarray(one), np.round((x[k, 0].clip(-1, 1) + 1) * 127.5).astype(np.uint8))
    assert path.name == "000002.png"


def test_resume_of_a_finished_run_trains_no_further(run, capsys):
    before = (run / "checkpoints" / "step-00000002" / "manifest.json").read_bytes()
    main(["train", "digits", *SHORT, "--out", str(run), "--resume"])
    assert (run / "checkpoints" / "step-00000002" / "manifest.json").read_bytes() == before


def test_what_training_does_not_depend_on_may_change_on_resume(tmp_path):
    out = tmp_path / "run"
    main(["train", "two-moons", *SHORT, "--out", str(out)])
    main(["train", "two-moons", "--samples", "60", "--sample.plan", "heun:3", "--out", str(out), "--resume"])
    assert json.loads((out / "recipe.json").read_text())["sample"]["plan"] == "heun:3"


def test_a_second_trainer_leaves_the_recipe_of_the_first(tmp_path):
    _, first = start(lv.recipe("two-moons"), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in ("recipe.json", "facts.json")}
    with pytest.raises(ValueError, match="is being trained by process"):
        start(lv.recipe("digits"), tmp_path)
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
    first.close()


def test_more_processes_than_gpus_are_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("langevin.recipes.devices.device_of", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in (("WORLD_SIZE", "3"), ("LOCAL_WORLD_SIZE", "3"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main(["train", "two-moons", "--device", "cuda", "--out", str(tmp_path)])
    assert "processes is 3, but this machine has 2 GPUs; use at most 2" in capsys.readouterr().err


def test_a_failing_data_worker_is_one_sentence(monkeypatch, tmp_path, capsys):
    def gone(self, index):
        raise FileNotFoundError("a.png is gone")

    monkeypatch.setattr(lv.data.Arrays, "batch", gone)
    with pytest.raises(SystemExit):
        main(["train", "two-moons", *SHORT, "--train.workers", "1", "--out", str(tmp_path)])
    assert "langevin: reading step 0 failed in a worker: a.png is gone\n" in capsys.readouterr().err


def test_the_end_of_a_run_is_judged_where_it_was_trained(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("langevin.recipes.report.report", lambda *args, device: seen.append(device))
    main(["train", "two-moons", *SHORT, "--out", str(tmp_path), "--device", "cpu:0"])
    assert seen == ["cpu:0"]


def test_resume_needs_no_flags_again(tmp_path, capsys):
    out = tmp_path / "run"
    main(["train", "two-moons", *SHORT, "--train.lr", "0.01", "--out", str(out)])
    main(["train", "two-moons", "--samples", "60", "--out", str(out), "--resume"])
    assert json.loads((out / "recipe.json").read_text())["train"]["lr"] == 0.01


def test_a_run_samples_without_its_data(folder, tmp_path):
    import shutil

    shutil.copytree(folder / "mnist", tmp_path / "data")
    args = ["--data.folder", str(tmp_path / "data"), *EXTRA["mnist"], "--out", str(tmp_path / "run")]
    main(["train", "mnist", *SHORT, *args])
    shutil.rmtree(tmp_path / "data")
    main(["sample", str(tmp_path / "run"), "--count", "2", "--plan", "ddim:2", "--out", str(tmp_path / "a.png")])
    assert (tmp_path / "a.png").exists()


def test_plan_show(capsys):
    main(["plan", "show", "dpmpp:4", "--process", "flow:shift=3"])
    assert "dpmpp(4, order=2): 4 evaluations" in capsys.readouterr().out
    main(["plan", "show", "heun:3", "--process", "edm", "--json"])
    assert lv.Plan.from_json(capsys.readouterr().out).nfe == 5


REFUSED = {
    ("trian",): "did you mean 'train'",
    ("train", "digts"): "did you mean 'digits'",
    ("plan", "shw"): "did you mean 'show'",
    ("plan", "show", "dmpp:20"): "did you mean 'dpmpp'",
    ("plan", "show", "ddim:5", "--process", "cosin"): "did you mean 'cosine'",
    ("sample", "nowhere", "--out", "x.png"): "is no run directory",
    ("sample", "RUN", "--out", "x.bmp"): "write a .png, .gif, .npy or folder",
    ("sample", "RUN", "--out", "x.png", "--count", "0"): "count is 0",
    ("train", "images", "--data.captions", "txt", "--out", "NEW"): "recipe images reads no texts; train emoji",
    ("sample", "RUN", "--out", "x.png", "--label", "12"): "classes run from 0 to 9",
    ("sample", "RUN", "--out", "x.png", "--plan", "dpmpp:many"): "steps is 'many'; give a int",
    ("train", "digits", "--out", "RUN"): "already holds a run at step 2",
    ("train", "digits", *SHORT, "--out", "RUN", "--resume", "--train.lr", "0.5"): "train.lr is 0.5 but the run",
    ("train", "digits", "--process.schedule", "cosin", "--out", "NEW"): "did you mean 'cosine'",
    ("train", "mnist", "--data.folder", "nowhere", "--out", "NEW"): "no idx files",
    ("train", "mnist", "--out", "RUN", "--resume"): "recipe is mnist, but the run in",
    ("train", "digits", "--train.lr", "-1", "--out", "NEW"): "--train.lr is -1.0; it should be greater than 0.",
    ("train", "digits", "--train.weight-decay=-1", "--out", "NEW"): "--train.weight-decay is -1.0; it should be greater than",
    ("train", "digits", "--train.betas", "0.9", "1", "--out", "NEW"): "betas is (0.9, 1.0); give two decays",
    ("train", "digits", "--train.resolutions", "0.5", "0", "--out", "NEW"): "resolutions is ((0.5, 0),); give shares that rise",
    ("train", "digits", "--train.schedule", "inverse_sqrt", "--out", "NEW"): "hold is None",
    ("sample", "RUN", "--out", "x.png", "--device", "gpu"): "device is 'gpu'",
    ("tune", "RUN", "--steps", "3", "--device", "gpu"): "device is 'gpu'",
    ("train", "digits", "--device", "gpu", "--out", "NEW"): "device is 'gpu'",
    ("train", "digits", "--samples", "1", "--out", "NEW"): "samples is 1",
    ("train", "two-moons", "--sample.plan", "heun:0", "--out", "NEW"): "steps is 0",
    ("train", "digits-discrete", "--sample.plan", "heun:5", "--out", "NEW"): "use a plan in the x0 basis",
    ("evaluate", "RUN", "--count", "0"): "count is 0",
    ("evaluate", "RUN"): "there are 297 real samples",
    ("evaluate", "RUN", "--small", "--metrics", "fdd"): "did you mean 'fd'",
    ("evaluate", "RUN", "--small", "--features", "nothing.safetensors"): "nothing.safetensors cannot be read",
    ("evaluate", "RUN", "--small", "--features", "pca", "--metrics", "is"): "needs class probabilities",
    ("evaluate", "RUN", "--size", "8"): "size is 8",
    ("evaluate", "RUN", "--against", "RUN", "--plan", "ddim:3"): "plan is ddim:3",
    ("sample", "RUN", "--out", "x.png", "--guidance", "nan"): "guidance is nan",
    ("inspect", "nowhere"): "does not exist",
    ("sample", "RUN", "--out", "x.png", "--label", "9" * 20): "classes of this run are told by a number from 0",
    ("upscale", "RUN", "RUN", "--out", "x.png", "--count", "0"): "count is 0; ask for at least 1",
    ("train", "digits", "--network.multipliers", "0", "--out", "NEW"): "is 0; it should be greater than or equal to 1",
    ("train", "digits", "--network.multipliers", "1", "2", "4", "8", "16", "--out", "NEW"): "shrink them 16-fold; make data.size",
    ("train", "digits", "--device", "meta", "--out", "NEW"): "device is 'meta', which this machine does not have",
    ("train", "images", "--data.size", "1000000", "--out", "NEW"): "should be less than or equal to 20000",
}


@pytest.mark.parametrize("args", REFUSED, ids=" ".join)
def test_bad_input_is_one_sentence(args, run, tmp_path, capsys):
    there = {"RUN": str(run), "NEW": str(tmp_path / "new")}
    with pytest.raises(SystemExit) as end:
        main([there.get(a, a) for a in args])
    printed = capsys.readouterr().err
    assert end.value.code == 2 and REFUSED[args] in printed
    assert printed.startswith("langevin: ") and "Traceback" not in printed and printed.count("\n") == 1


@pytest.mark.parametrize("flag", ["--train.stps", "--network.widht"])
def test_unknown_fields_name_the_nearest(flag, capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "digits", flag, "5"])
    assert end.value.code == 2
    nearest = {"--train.stps": "--train.steps", "--network.widht": "--network.width"}[flag]
    assert nearest in capsys.readouterr().err


ELSEWHERE = {
    "generate PATH --num-inference-steps 3": "it is --steps here",
    "generate PATH --guidance_scale=3": "it is --guidance here",
    "generate PATH --width 512": "it is --size here",
    "train images --batch-size 8": "it is --train.batch here",
    "train images --train.batch_size 8": "it is --train.batch here",
    "train images --epochs 3": "say --train.steps (updates: epochs * samples of data / batch), or --train.samples",
    "train images --num-epochs 3": "say --train.steps",
    "train images --data.path photos": "it is --data.folder here",
    "train images --guidance-scale 2": "it is --sample.guidance here",
    "train text8-like --data.folder books": "it is --data.path here",
    "train text8-like --data-dir books": "it is --data.path here",
    "train images --count 5": "it is --samples here",
    "sample RUN --out x.png --samples 5": "it is --count here",
    "evaluate RUN --samples 5": "it is --count here",
    "sample RUN --out x.png --num-inference-steps 5": "the plan says how many, as in --plan dpmpp:20",
    "finetune PATH photos --method lora --learning-rate 1": "it is --train.lr here",
}


@pytest.mark.parametrize("line", ELSEWHERE)
def test_flags_of_others_are_answered_with_ours(line, capsys):
    with pytest.raises(SystemExit) as end:
        main(line.split())
    said = capsys.readouterr().err
    flag = next(word for word in line.split() if word.startswith("--") and word not in ("--out", "--method")).partition("=")[0]
    assert end.value.code == 2 and said.startswith(f"langevin: {flag} is no flag of langevin ") and ELSEWHERE[line] in said
    assert said.count("\n") == 1


def test_values_out_of_range_are_refused(capsys, tmp_path):
    for flag, value in (("--train.lr", "-1"), ("--train.steps", "0"), ("--network.dropout", "1.5"), ("--objective.drop", "2")):
        with pytest.raises(SystemExit) as end:
            main(["train", "digits", flag, value, "--out", str(tmp_path / "x")])
        assert end.value.code == 2
        assert not (tmp_path / "x").exists()


def test_inspect_reads_headers_of_foreign_files(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(3, 4, dtype=torch.bfloat16)}, path)
    assert "1 tensors of BF16, 12 values" in describe(path) and "BF16 (3, 4)" in describe(path)
    whole = path.read_bytes()
    for broken in (b"", whole[:5], whole[:-1], whole + b"x", (2**60).to_bytes(8, "little") + whole[8:]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"a\.safetensors"):
            describe(path)


def test_suite_runs_on_the_source_tree():
    assert Path(lv.__file__).parent == ROOT / "src" / "langevin" or "CI" in os.environ


def test_a_plan_is_learned_and_used(tmp_path, capsys):
    out = tmp_path / "moons"
    main(["train", "two-moons", *SHORT, "--train.steps", "60", "--out", str(out)])
    sizes = ["--batch", "16", "--count", "64", "--held-out", "32"]
    main(["tune", str(out), "--steps", "3", "--iterations", "24", *sizes])
    printed = capsys.readouterr().out
    assert "best ready-made" in printed and "3 evaluations" in printed
    saved = out / "plans" / "tuned-3.json"
    assert lv.Plan.from_json(saved.read_text()).nfe == 3 and not list(saved.parent.glob("*.safetensors"))
    main(["sample", str(out), "--count", "50", "--plan", str(saved), "--out", str(tmp_path / "a.npy")])
    # what `auto` finds is kept with the run, and found again
    main(["sample", str(out), "--count", "50", "--plan", "auto:2", "--out", str(tmp_path / "b.npy")])
    (kept,) = (out / "plans").glob("auto-2-w1-*.json")
    before = kept.stat().st_mtime_ns
    main(["sample", str(out), "--count", "50", "--plan", "auto:2", "--out", str(tmp_path / "c.npy")])
    assert kept.stat().st_mtime_ns == before
    assert np.array_equal(np.load(tmp_path / "b.npy"), np.load(tmp_path / "c.npy"))
    # so are levels that are placed on the model
    main(["sample", str(out), "--count", "50", "--plan", "dpmpp:3:grid=optimal", "--out", str(tmp_path / "b.npy")])
    (placed,) = (out / "plans").glob("dpmpp-3-grid=optimal-w1-*.json")
    levels = lv.Plan.from_json(placed.read_text()).levels
    assert levels != lv.plans.dpmpp(3).on(lv.open_run(out).denoiser.process.schedule).levels and len(levels) == 4
    with pytest.raises(SystemExit):
        main(["plan", "show", "dpmpp:3:grid=optimal"])
    assert "found on a run's model" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["sample", str(out), "--plan", "auto:", "--out", str(tmp_path / "d.npy")])
    assert "say how many evaluations" in capsys.readouterr().err


def test_plans_are_shown_plotted_and_compared(tmp_path, capsys):
    main(["plan", "show", "trig:5", "--plot", str(tmp_path / "plan.png")])
    assert "5 evaluations, basis v" in capsys.readouterr().out
    with Image.open(tmp_path / "plan.png") as picture:
        assert picture.width > 500
    main(["plan", "compare", "dpmpp:8", "dpmpp:8:order=3"])
    assert capsys.readouterr().out.startswith("row ")
    main(["plan", "compare", "dpmpp:8", "dpmpp:8"])
    assert capsys.readouterr().out == "the same\n"
    main(["plan", "show", "dpmpp:4", "--json"])
    (tmp_path / "p.json").write_text(capsys.readouterr().out)
    main(["plan", "compare", str(tmp_path / "p.json"), "dpmpp:4"])
    assert capsys.readouterr().out == "the same\n"
    with pytest.raises(SystemExit):
        main(["plan", "comapre", "a", "b"])
    assert "did you mean 'compare'" in capsys.readouterr().err


def test_a_part_of_a_recipe_may_be_of_another_kind(tmp_path, capsys):
    out = tmp_path / "dit"
    flags = ["--network.kind", "dit", "--network.depth", "2", "--network.width", "32", "--network.heads", "2"]
    main(["train", "digits", *flags, *SHORT, "--out", str(out)])
    network = json.loads((out / "recipe.json").read_text())["network"]
    assert (network["kind"], network["depth"]) == ("dit", 2)
    # and it is resumed as that without being told again
    main(["train", "digits", "--samples", "60", "--out", str(out), "--resume"])
    assert open_run(out).recipe.network.kind == "dit"
    with pytest.raises(SystemExit):
        main(["train", "digits", "--network.kind", "ditt"])
    assert "did you mean 'dit'" in capsys.readouterr().err


def test_captions_are_what_is_drawn(folder, tmp_path, capsys):
    out = tmp_path / "emoji"
    pixels = ["--codec.origin", "None", "--network.width", "16"]
    main(["train", "emoji", *SHORT, *EXTRA["emoji"], *pixels, "--data.folder", str(folder / "emoji"), "--out", str(out)])
    run = open_run(out)
    words = run.facts.vocabulary
    assert words is not None and set(words.examples) <= {f"the digit {n}" for n in ("zero", "one", "two", "three", "four")}
    with torch.no_grad():
        for p in run.denoiser.parameters():  # two updates from zero leave nothing to see
            p.add_(0.05 * torch.sin(torch.arange(p.numel(), dtype=p.dtype)).view_as(p))
    first = draw(run, 4, prompts=["the digit one", "the digit four"], guidance=2.0)
    # sample k is of its own caption, whatever stands beside it; an own null is the empty caption
    alone = draw(run, 3, prompts=["the digit one"], guidance=2.0)
    assert torch.allclose(first[::2], alone[::2], atol=1e-5) and not torch.allclose(first[1], alone[1], atol=1e-3)
    null = run.denoiser(first, 0.5, None).mean
    assert torch.equal(null, run.denoiser(first, 0.5, {"ids": words.ids([""] * 4)}).mean)
    dropped = {"ids": words.ids(["the digit one"] * 4), "drop": torch.tensor([True, False, True, False])}
    assert torch.allclose(run.denoiser(first, 0.5, dropped).mean[::2], null[::2], atol=1e-6)
    main(["sample", str(out), "--prompt", "the digit two", "the digit one", "--out", str(tmp_path / "two.png")])
    with Image.open(tmp_path / "two.png") as picture:
        assert picture.width > 2 * 96
    with pytest.raises(SystemExit):
        main(["sample", str(out), "--label", "1", "--out", str(tmp_path / "no.png")])
    assert "this run has no classes" in capsys.readouterr().err
