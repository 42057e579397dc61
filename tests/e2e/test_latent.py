"""Runs in latents: what is kept, what is refused, and the way back to pictures."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import langevin as lv
from langevin import plans
from langevin.cli import main
from langevin.data import Pictures
from langevin.networks.autoencoder import Autoencoder, Half, Plain, Scale
from langevin.recipes.build import build
from langevin.recipes.captions import Captioned, learn
from langevin.recipes.config import ArraysData, CodecConfig
from langevin.recipes.distillation import student
from langevin.recipes.drawing import draw
from langevin.recipes.latents import check, keep, opened
from langevin.recipes.opening import open_run
from langevin.recipes.starting import start
from langevin.tensors import load, save
from langevin.zoo.families.autoencoders import config_kl, keys_plain
from langevin.zoo.family import published

SHORT = ["--train.steps", "4", "--train.batch", "8", "--samples", "60", "--sample.plan", "ddim:2", "--device", "cpu",
         "--data.no-labels"]  # fmt: skip
SMALL = ["--network.width", "8", "--network.multipliers", "1", "--network.blocks", "1", "--network.head-width", "8",
         "--network.attention", "0"]  # fmt: skip

# its autoencoder is as it was drawn, whose latents have no size in particular
pytestmark = pytest.mark.filterwarnings("ignore:the data has mean")


def publish(folder, seed=0, factor=0.7, shift=0.1):
    """A small autoencoder as it is published: 2 x 2 grey pixels to one latent of 3 channels."""
    torch.manual_seed(seed)
    one, two = (Half(Plain(4, attention=False), [8, 8], [n, n]) for n in (1, 2))
    net = Autoencoder(one, two, 3, 1, gaussian=True, scale=Scale(factor, shift))
    config = config_kl(net)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save(folder / "diffusion_pytorch_model.safetensors", published(net, keys_plain(config, net)), {"format": "pt"})
    return folder


def refused(capsys, *args):
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([str(a) for a in args])
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("published") / "vae")


@pytest.fixture(scope="module")
def run(tmp_path_factory, vae):
    out = tmp_path_factory.mktemp("runs") / "latent"
    main(["train", "digits", *SHORT, *SMALL, "--codec.origin", str(vae), "--codec.dtype", "float32", "--out", str(out)])
    return out


def test_a_run_in_latents_is_the_run_on_arrays_of_them_to_the_bit(run, vae, tmp_path):
    codec, (train, test) = opened(str(vae)), (lv.data.digits(split) for split in ("train", "test"))
    with torch.no_grad():
        x = torch.cat([codec.encode(part.x) for part in (train, test)])
    np.save(tmp_path / "x.npy", x.numpy())
    data = ArraysData(x=str(tmp_path / "x.npy"), test=len(test.x))
    _, trainer = start(open_run(run).recipe.model_copy(update={"data": data, "codec": CodecConfig()}), tmp_path / "arrays")
    trainer.run(progress=False)
    a, b = (load(next(iter(sorted(p.glob("checkpoints/*/model.safetensors"))))) for p in (run, tmp_path / "arrays"))
    assert set(a) == set(b) and all(torch.equal(a[n], b[n]) for n in a)


def test_what_is_drawn_is_decoded(run, vae, tmp_path):
    opened_run, codec = open_run(run), opened(str(vae))
    z = lv.sample(opened_run.denoiser, plans.ddim(2), 7)
    with torch.no_grad():
        x = codec.decode(z)
    assert z.shape == (7, 3, 4, 4) and x.shape == (7, 1, 8, 8)
    assert torch.equal(draw(opened_run, 7), x)
    main(["sample", str(run), "--out", str(tmp_path / "x.npy"), "--count", "7", "--device", "cpu"])
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "x.npy")), x)
    main(["sample", str(run), "--out", str(tmp_path / "x.gif"), "--count", "2", "--device", "cpu"])
    main(["interpolate", str(run), "--out", str(tmp_path / "ways.png"), "--rows", "1", "--count", "3", "--tolerance", "0.01"])
    assert (tmp_path / "x.gif").exists() and (tmp_path / "ways.png").exists()
    # real pictures are judged as they are, and the card says what decoded the samples
    metrics = json.loads((run / "metrics.json").read_text())
    facts = opened_run.facts.codec
    assert facts.pictures == (1, 8, 8) and opened_run.facts.shape == (3, 4, 4) and (facts.factor, facts.shift) == (0.7, 0.1)
    assert metrics["protocol"]["weights"].endswith(f"decoded by {facts.hash}")
    assert metrics["protocol"]["real"]["hash"] == opened_run.test.digest() and opened_run.test.shape == (1, 8, 8)


def test_another_autoencoder_is_refused_and_a_moved_one_is_found(run, vae, tmp_path, capsys):
    again = ["train", "digits", *SHORT, "--resume", "--out", run]
    other = publish(tmp_path / "other", seed=1)
    said = refused(capsys, *again, "--codec.origin", other)
    assert "was begun with" in said and open_run(run).facts.codec.hash in said
    assert "draws pixels" not in said
    said = refused(capsys, "sample", run, "--out", tmp_path / "x.npy", "--codec", other, "--device", "cpu")
    assert "learned the latents of" in said and "--codec FOLDER" in said
    # the run goes on, wherever the autoencoder is
    alone, place = tmp_path / "alone", tmp_path / "place"
    shutil.copytree(run, alone)
    home = shutil.copytree(vae, tmp_path / "home")
    facts = json.loads((alone / "facts.json").read_text())
    facts["codec"]["origin"] = str(home)
    (alone / "facts.json").write_text(json.dumps(facts))
    shutil.move(home, place)
    assert "no longer in" in refused(capsys, "sample", alone, "--out", tmp_path / "x.npy", "--device", "cpu")
    main(["sample", str(alone), "--out", str(tmp_path / "x.npy"), "--count", "2", "--codec", str(place), "--device", "cpu"])
    again[again.index(run)] = alone
    main([str(a) for a in [*again, "--codec.origin", place]])
    assert open_run(alone).facts.codec.origin == str(place) and open_run(alone).facts.codec.factor == 0.7
    main(["sample", str(alone), "--out", str(tmp_path / "x.npy"), "--count", "2", "--device", "cpu"])


def test_a_measured_scale_makes_latents_of_unit_variance_and_stays(vae, tmp_path):
    out = tmp_path / "run"
    told = [
        "train",
        "digits",
        *SHORT,
        *SMALL,
        "--codec.origin",
        str(vae),
        "--codec.scale",
        "measured",
        "--codec.dtype",
        "float32",
    ]
    main([*told, "--out", str(out)])
    known = open_run(out).facts.codec
    x = torch.from_numpy(np.load(out / "latents" / "x-0.npy"))
    assert abs(float(x.mean())) < 0.01 and abs(float(x.std()) - 1) < 0.01
    with torch.no_grad():
        own = opened(str(vae)).code(lv.data.digits().x).mean
    torch.testing.assert_close(x, (own - known.shift) * known.factor)
    # what was measured when the run began stands
    facts = json.loads((out / "facts.json").read_text())
    facts["codec"]["factor"] *= 1 + 1e-7
    (out / "facts.json").write_text(json.dumps(facts))
    shutil.rmtree(out / "latents")
    main([*told, "--resume", "--out", str(out)])
    assert open_run(out).facts.codec.factor == facts["codec"]["factor"]


def test_what_has_no_latents_says_so(run, vae, tmp_path, capsys):
    for recipe, fields, said in (
        ("two-moons", [], "data 'moons' has no such pictures"),
        ("digits-discrete", [], "use form 'image'"),
        ("images", ["--data.flip"], "data.flip is True; set it to False"),
        ("digits", ["--data.kind", "images", "--data.folder", "none", "--process.kind", "interpolant"], "use process 'gaussian'"),
    ):
        assert said in refused(capsys, "train", recipe, *fields, "--codec.origin", vae, "--out", tmp_path / "refused")
    colour = tmp_path / "colour"
    np.save(tmp_path / "x.npy", np.zeros((2000, 3, 8, 8), np.uint8))
    arrays = ["--data.kind", "arrays", "--data.x", tmp_path / "x.npy", "--codec.origin", vae, "--out", colour]
    assert "the data has 3" in refused(capsys, "train", "digits", *arrays)
    np.save(tmp_path / "x.npy", np.zeros((2000, 1, 9, 8), np.uint8))
    assert "make the sides multiples" in refused(capsys, "train", "digits", *arrays)
    assert "is no autoencoder" in refused(capsys, "train", "digits", "--codec.origin", run, "--out", colour)
    missing = tmp_path / "digits-autoencoder"
    said = refused(capsys, "train", "digits-latent", "--codec.origin", missing, "--out", colour)
    assert f"is not there; make it with langevin train digits-autoencoder --out {missing}" in said
    assert "restore works on pixels" in refused(
        capsys, "restore", run, "--task", "inpaint", "--out", tmp_path / "x.png", "--device", "cpu"
    )
    assert "likelihood is none of pictures" in refused(capsys, "likelihood", run, "--device", "cpu")


def test_latents_keep_labels_and_captions(vae, tmp_path):
    pytest.importorskip("tokenizers")
    shades = [(k, kind, 40 * k) for k in range(4) for kind in ("dark", "light")]
    for k, kind, shade in shades:
        (tmp_path / kind).mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), shade, np.uint8)).save(tmp_path / kind / f"{k}.png")
        (tmp_path / kind / f"{k}.txt").write_text(f"{kind} number {k}")
    pictures = Pictures(tmp_path, 8, 1, captions="txt", split="all")
    told = Captioned(pictures, learn(pictures.captions, 520, 12))
    kept, index = keep(told, opened(str(vae)), tmp_path / "latents"), torch.tensor([5, 0, 3])
    read, before = kept.batch(index), told.batch(index)
    assert set(read.cond) == {"label", "ids"} and all(torch.equal(read.cond[n], before.cond[n]) for n in before.cond)
    assert read.x.shape == (3, 3, 4, 4)


def test_a_student_learns_the_latents_of_its_teacher(run, vae, tmp_path, capsys):
    out = tmp_path / "student"
    few = ["--train.steps", "2", "--train.batch", "8", "--samples", "60", "--device", "cpu"]
    main(["distill", str(run), "--to", "consistency", *few, "--out", str(out)])
    assert open_run(out).facts.codec == open_run(run).facts.codec
    # told where the autoencoder is now, the teacher is drawn through it as well
    place = vae.rename(vae.with_name("moved"))
    try:
        main(["distill", str(run), "--to", "consistency", *few, "--codec.origin", str(place), "--out", str(tmp_path / "later")])
    finally:
        place.rename(vae)
    assert json.loads((tmp_path / "later" / "comparison.json").read_text())[0]["who"] == "teacher"
    other = publish(tmp_path / "other", seed=1)
    said = refused(capsys, "distill", run, "--to", "consistency", *few, "--codec.origin", other, "--out", tmp_path / "no")
    assert "was begun with" in said


def arrays(tmp_path, vae, seed=0, shift=0, **train):
    """A small recipe in the latents of arrays of grey pictures, which it writes."""
    x = np.random.default_rng(seed).integers(0, 200, (80, 1, 8, 8)) + shift
    np.save(tmp_path / "x.npy", x.astype(np.uint8))
    base = lv.recipe("digits").model_dump()
    base["data"] = {"kind": "arrays", "x": str(tmp_path / "x.npy"), "test": 60}
    base["network"].update(width=8, multipliers=(1,), blocks=1, head_width=8, attention=(0,))
    base["train"].update(steps=1, batch=8, schedule="constant", save_every=1, preview_every=1000, **train)
    base["codec"] = {"origin": str(vae), "dtype": "float32"}
    return type(lv.recipe("digits")).model_validate(base)


def learn_on(made, out, steps=1, **options):
    asked = made.model_copy(update={"train": made.train.model_copy(update={"steps": steps})})
    run, trainer = start(asked, out, resume=True, **options)
    trainer.run(progress=False)
    trainer.close()
    return run, trainer


def test_latents_of_other_data_are_made_beside_those_of_before(vae, tmp_path):
    out = tmp_path / "run"
    learn_on(arrays(tmp_path, vae), out)
    first = np.load(out / "latents" / "x-0.npy")
    made = arrays(tmp_path, vae, shift=40)
    with pytest.raises(ValueError, match=r"the data is other than .*--other-data"):
        learn_on(made, out, 2)
    run, trainer = learn_on(made, out, 2, other_data=True)
    assert np.array_equal(np.load(out / "latents" / "x-0.npy"), first)
    with torch.no_grad():
        wanted = opened(str(vae)).encode(run.train.batch(torch.arange(20)).x)
    torch.testing.assert_close(trainer.data.batch(torch.arange(20)).x, wanted)
    learn_on(made, out, 3)  # which is its data now
    learn_on(arrays(tmp_path, vae), out, 4, other_data=True)  # and back again


def test_the_held_out_loss_of_latents_is_of_latents(vae, tmp_path):
    _, trainer = learn_on(arrays(tmp_path, vae, valid_every=1), tmp_path / "run")
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert line["valid"] > 0 and trainer.valid.shape == (3, 4, 4) and len(trainer.valid) == 60
    run = open_run(tmp_path / "run")
    with torch.no_grad():
        wanted = opened(str(vae)).encode(run.test.batch(torch.arange(5)).x)
    torch.testing.assert_close(trainer.valid.batch(torch.arange(5)).x, wanted)


def test_a_student_is_on_its_teachers_scale(vae, tmp_path):
    teacher = arrays(tmp_path, vae)
    measured = teacher.model_copy(update={"codec": teacher.codec.model_copy(update={"scale": "measured"})})
    learn_on(measured, tmp_path / "teacher")
    known = open_run(tmp_path / "teacher").facts.codec
    np.save(tmp_path / "x.npy", np.random.default_rng(1).integers(90, 110, (80, 1, 8, 8)).astype(np.uint8))

    def facts(made, scale):
        return build(made.model_copy(update={"codec": made.codec.model_copy(update={"scale": scale})})).facts.codec

    taught = student(measured, tmp_path / "teacher", "consistency")
    begun = measured.model_copy(update={"finetune": measured.finetune.model_copy(update={"origin": str(tmp_path / "teacher")})})
    for made in (taught, begun):
        for scale in ("auto", "measured"):
            found = facts(made, scale)
            assert (found.factor, found.shift) == (known.factor, known.shift) != (0.7, 0.1)
        with pytest.raises(ValueError, match=r"codec.scale is 'own', and the weights in .*teacher learned latents"):
            facts(made, "own")
    learn_on(teacher, tmp_path / "own")  # by the autoencoder's own numbers
    with pytest.raises(ValueError, match=r"codec.scale is 'measured'"):
        facts(student(teacher, tmp_path / "own", "consistency"), "measured")


def test_data_sets_of_hugging_face_have_latents(vae):
    base = lv.recipe("digits").model_dump()
    base["data"], base["codec"] = {"kind": "hugging_face", "flip": True}, {"origin": str(vae)}
    made = type(lv.recipe("digits")).model_validate(base)
    with pytest.raises(ValueError, match=r"data.flip is True; set it to False"):
        check(made)
    check(made.model_copy(update={"data": made.data.model_copy(update={"flip": False})}))


def test_other_captions_are_read_by_the_vocabulary_of_before(tmp_path):
    pytest.importorskip("tokenizers")

    def write(words):
        for k in range(24):
            (tmp_path / "album").mkdir(exist_ok=True)
            Image.fromarray(np.full((8, 8), 10 * k, np.uint8)).save(tmp_path / "album" / f"{k}.png")
            (tmp_path / "album" / f"{k}.txt").write_text(f"{words} number {k}")

    base = lv.recipe("emoji").model_dump() | {"codec": {}}
    base["data"].update(folder=str(tmp_path / "album"), captions="txt", size=8, held_out=0.3, labels=False)
    base["network"].update(width=8, multipliers=(1,), blocks=1, head_width=8, attention=(0,))
    base["train"].update(steps=1, batch=4, schedule="constant", save_every=1, preview_every=1000)
    base["text"].update(vocabulary=530, width=8, depth=1, heads=1, length=12)
    made = type(lv.recipe("emoji")).model_validate(base)
    write("a dark picture")
    before = learn_on(made, tmp_path / "run")[0].facts.vocabulary
    write("some brighter thing")
    with pytest.raises(ValueError, match=r"vocabulary.merges is now .*say --other-data if it is meant"):
        learn_on(made, tmp_path / "run", 2)
    run, _ = learn_on(made, tmp_path / "run", 2, other_data=True)
    assert run.facts.vocabulary.merges == before.merges
    told = run.train.batch(torch.arange(3)).cond["ids"]
    assert torch.equal(told, before.ids([run.train.captions[k] for k in range(3)]))
    learn_on(made, tmp_path / "run", 3)
    assert open_run(tmp_path / "run").facts.vocabulary.merges == before.merges
