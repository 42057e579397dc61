"""Whole recorded pipelines: the same noise, every step's state, and the picture at the end."""

import pytest
import torch
from PIL import Image
from torch import Tensor

import langevin as lv
from langevin.cli import main
from langevin.pictures import read_record
from langevin.zoo import registry, schedulers
from langevin.zoo.hub import read_object
from langevin.zoo.load import load

TOLERANCE = 1e-4
LOOSER = {"sde_ve_pipeline": 1e-3}  # states of 1348 in float32
# family, case
CASES = [
    ("ddpm", "ddpm_pipeline"), ("ddpm", "ddim_pipeline"), ("adm", "consistency_pipeline"), ("ncsnpp", "sde_ve_pipeline"),
    ("vq", "ldm_pipeline"), ("sd1", "txt2img_pndm"), ("sd1", "txt2img_sampler"), ("sd1", "img2img"), ("sd2", "txt2img"),
    ("sdxl", "txt2img"), ("sd_upscaler", "upscale"), ("sd_inpaint", "inpaint"), ("lcm", "lcm_pipeline"),
    ("controlnet", "pipeline"), ("dit", "pipeline"), ("pixart", "alpha_pipeline"), ("pixart", "sigma_pipeline"),
    ("sd3", "sd3_pipeline"), ("sd3", "sd35_pipeline"), ("flux", "dev_pipeline"), ("flux", "schnell_pipeline"),
]  # fmt: skip
PASSED_ON = {  # the peer's arguments that are ours under another name
    "negative_prompt": "negative", "guidance_scale": "guidance", "class_labels": "label", "noise_level": "noise_level",
    "controlnet_conditioning_scale": "control_scale", "guidance_rescale": "rescale", "max_sequence_length": "length",
    "clip_skip": "clip_skip",
}  # fmt: skip


def away(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1.0))


def unpacked(x: Tensor, height: int, width: int) -> Tensor:
    """FLUX's tokens (B, L, 4 C) as latents."""
    h, w = height // 16, width // 16
    return x.reshape(len(x), h, w, -1, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(len(x), -1, 2 * h, 2 * w)


@pytest.mark.parametrize(("family", "name"), CASES, ids=[f"{f}-{n}" for f, n in CASES])
def test_a_recorded_pipeline_takes_the_same_steps_to_the_same_picture(goldens, family, name):
    case = goldens.case(family, name)
    tensors, entry = case.tensors, case.entry["pipeline"]
    args = {k: case._value(v) for k, v in entry["args"].items()}
    model = load(case.dir / entry["component"], reference=True)
    schedule = model.denoiser.process.schedule
    scheduler = _scheduler(case.dir / entry["component"], "flux" if family == "flux" else "")
    steps = args.get("num_inference_steps") or 1
    asked = {ours: args[theirs] for theirs, ours in PASSED_ON.items() if args.get(theirs) is not None}
    size = (args["width"], args["height"]) if "width" in args else None
    if size is None and args.get("image") is not None and family != "sd_upscaler":
        size = (args["image"].shape[-1], args["image"].shape[-2])
    noises = {i: tensors[f"noise/{i}"] for i in range(entry["noises"])}
    used = [0]

    def fresh(like: Tensor, source, mask=None) -> Tensor:
        used[0] += 1
        return noises[used[0] - 1].to(like)

    if family == "sdxl":
        asked |= {"original_size": args["original_size"][::-1], "crop": tuple(args["crops_coords_top_left"])}
    if "clip_skip" in asked:
        asked["negative_clip_skip"] = 0  # the peer skips no layers there
    tokens = None
    if family == "flux":
        tokens = args["latents"].shape[1]
    options = {"nodes": args["timesteps"]} if args.get("timesteps") else {}
    options |= {"eta": args["eta"]} if args.get("eta") else {}
    options |= {"consistent": True} if args.get("use_clipped_model_output") else {}
    start, level = None, 1.0
    if "strength" in args and args["strength"] < 1:
        count = int(args["num_inference_steps"] * args["strength"])
        levels = scheduler.plan(steps, reference=True).on(schedule).levels
        level = levels[steps - count]
    if level < 1 and scheduler.name == "PNDMScheduler":
        pytest.skip("the peer's PNDM begun late mistakes the level of its second evaluation")
    plan = scheduler.plan(steps, start=level, tokens=tokens, reference=True, **options).on(schedule)
    model.denoiser.process.noise = fresh
    drawn = torch.Generator().manual_seed(0)
    codec_noise: list[Tensor] = []
    if family == "sd1" and name == "img2img":
        # the posterior's noise comes first from the peer's generator, and is not recorded
        codec_noise = [torch.randn(noises[0].shape, generator=drawn)]
        asked |= {"image": args["image"] * 2 - 1, "strength": level}
    if family == "sd_inpaint":
        # of a picture's latents where it is begun at, of the start, of the masked latents
        codec_noise = [torch.randn(noises[0].shape, generator=drawn)] if level < 1 else []
        first = torch.randn(noises[0].shape, generator=drawn)
        assert torch.equal(first, noises[0]), "the peer draws in another order than was read"
        codec_noise = [torch.randn(noises[0].shape, generator=drawn), *codec_noise]
        asked |= {"strength": level} if level < 1 else {}
        asked |= {"image": args["image"], "mask": args["mask_image"], "paste": False}
    if family == "sd_upscaler":
        asked |= {"image": args["image"]}
        model.small.noise = lambda like, source, mask=None: noises[0].to(like)
    if family == "controlnet":
        asked |= {"control": args["image"] * 2 - 1}
    if codec_noise:
        inner = model.codec

        class Fed:
            factor, channels, decode = inner.factor, inner.channels, staticmethod(inner.decode)
            encode = staticmethod(lambda x, noise=None: inner.encode(x, codec_noise.pop(0)))

        model = model.but(codec=Fed())
    if "latents" in args:
        begin = args["latents"] if family != "flux" else unpacked(args["latents"], args["height"], args["width"])
        start = begin * scheduler.first(steps)
    elif "strength" not in args or args["strength"] == 1:
        start = noises[0] * scheduler.first(steps)
        used[0] = 1
    if start is not None:
        asked["start"] = start
    if family == "dit":
        asked["label"] = asked["label"] if isinstance(asked["label"], list) else [asked["label"]]
    prompt = args.get("prompt")
    if prompt is None and "label" not in asked and model.conditioner is None:
        asked["count"] = args["batch_size"]
        if model.defaults.classes is not None:
            pytest.skip("classes are not recorded")
    states: list[Tensor] = []
    result = model.run(prompt, size=size, plan=plan, callback=lambda p: states.append((p.step, p.step.z)), **asked)

    # what the peer's states are in our scale, step by step; rows that only correct or noise again are not steps of its
    theirs = [tensors[f"step/{i}/prev_sample"] for i in range(entry["steps"]) if f"step/{i}/prev_sample" in tensors]
    rows = [i for i, (step, _) in enumerate(states)]
    ours = []
    for i in rows:
        later = plan.rows[i + 1] if i + 1 < len(plan.rows) else None
        if later is not None and type(later).__name__ == "Renoise":
            continue  # a leap, and the noise after it, are one step of the peer's
        if type(plan.rows[i]).__name__ == "Langevin":
            continue
        ours.append((plan.rows[i].stop, states[i][1]))
    if theirs and len(ours) == len(theirs):
        for (stop, z), x in zip(ours, theirs, strict=True):
            alpha = float(schedule(stop)[0]) if scheduler.carries == "z/alpha" else 1.0
            x = unpacked(x, args["height"], args["width"]) if family == "flux" else x
            x = x[: len(z)]  # the peer's DiT steps both halves of guidance
            assert away(z, x * alpha) <= TOLERANCE, stop
    else:
        assert scheduler.name in ("UniPCMultistepScheduler", "HeunDiscreteScheduler", "ScoreSdeVeScheduler", "PNDMScheduler"), (
            len(ours), len(theirs))  # fmt: skip
    images = tensors["out/images"].permute(0, 3, 1, 2)
    error = float(((result.tensor + 1) / 2 - images).abs().max())
    assert error <= LOOSER.get(name, TOLERANCE), error


def _scheduler(folder, family):
    return schedulers.read(read_object(folder / "scheduler" / "scheduler_config.json"), family)


@pytest.mark.parametrize("name", ["sd3_pipeline", "sd35_pipeline"])
def test_a_stable_diffusion_3_draws_the_size_of_its_folder(goldens, name, monkeypatch):
    folder = goldens.case("sd3", name).dir / "pipeline"
    config, model = read_object(folder / "transformer" / "config.json"), load(folder)
    side = config["sample_size"] * model.codec.factor  # as diffusers' default_sample_size * vae_scale_factor
    assert model.defaults.size == (side, side)
    most = config["pos_embed_max_size"] * config["patch_size"] * model.codec.factor
    monkeypatch.setattr("langevin.tasks.generate.conditions", lambda *asked: pytest.fail("the text is encoded first"))
    with pytest.raises(ValueError, match=rf"at most {most} x {most} pixels; give size= \(--size\) up to that"):
        model.run("a cat", size=(most + model.defaults.multiple, side))


def test_from_the_command_line(goldens, tmp_path, capsys):
    folder = goldens.case("sd1", "txt2img_sampler").dir / "pipeline"
    out = tmp_path / "cat.png"
    main(["generate", str(folder), "a red cat", "--steps", "2", "--seed", "7", "--size", "64x48", "--out", str(out)])
    record = read_record(out)
    assert (record["prompt"], record["seed"], record["size"]) == ("a red cat", 7, [64, 48])
    again = load(folder).run("a red cat", steps=2, seed=7, size=(64, 48))
    with Image.open(out) as picture:
        assert picture.tobytes() == again.images[0].tobytes()
    with pytest.raises(SystemExit):
        main(["generate", str(folder), "--out", str(out)])
    assert "reads text" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["generate", str(folder), "a cat", "--size", "64", "--out", str(out)])
    assert "as in 768x512" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["generate", str(folder / "unet"), "a cat", "--out", str(out)])
    assert "model_index.json" in capsys.readouterr().err


def test_a_plan_takes_the_steps_that_are_asked_for(goldens):
    """A sampler named without a number takes `steps`, and the record says what was evaluated."""
    model = lv.load(goldens.case("sd1", "txt2img_sampler").dir / "pipeline")
    asked = {"size": (32, 32), "seed": 1}
    named, numbered = (model.run("a cat", plan=p, **o, **asked) for p, o in (("ddim", {"steps": 2}), ("ddim:2", {})))
    assert torch.equal(named.tensor, numbered.tensor) and named.info[0]["steps"] == numbered.info[0]["steps"] == 2
    gridded = model.run("a cat", plan="ddim:grid=uniform", steps=3, **asked)
    assert gridded.info[0]["steps"] == 3 and gridded.info[0]["plan"] == "ddim:3:grid=uniform"
    for plan in ("ddim:4", lv.plans.ddim(4)):
        with pytest.raises(ValueError, match=r"steps is 2.*leave steps out"):
            model.run("a cat", plan=plan, steps=2, **asked)


def test_what_is_no_model_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="neither"):
        load(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDifusionPipeline"}')
    with pytest.raises(ValueError, match="did you mean 'StableDiffusionPipeline'"):
        load(tmp_path)
    (tmp_path / "model_index.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        load(tmp_path)


def test_the_registry_knows_where_every_class_is():
    found = {part.name: place for place in registry.places() for part in registry._of(place).values()}
    assert found == registry.PLACES
