"""What a generator promises, on a small network and a codec that is known in closed form."""

import threading

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from langevin import plans, schedules
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.inspection import describe
from langevin.pictures import LONGEST, read_record, save_png
from langevin.plans.grids import uniform
from langevin.tasks.generate import Defaults, Generator
from langevin.text.conditioning import Conditioner

SIZE = (16, 12)


class Net(nn.Module):
    """Differs by place, condition and level; it keeps what it is asked, and in how large batches."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(4, 4, 3, padding=1)
        with torch.no_grad():
            self.mix.weight.copy_(torch.sin(torch.arange(144.0)).reshape(4, 4, 3, 3) / 6)
            self.mix.bias.zero_()
        self.asked: list[Tensor] = []

    def forward(self, z: Tensor, level: Tensor, cond=None, mask=None) -> Tensor:
        self.asked.append(z)
        told = 0.0 if not cond else cond["tokens"].mean((1, 2))[:, None, None, None]
        return torch.tanh(self.mix(z) + told) * (1 + level[:, None, None, None] / 1000)


class Blocks:
    """Latents are the means of 2 x 2 pixels, and their sum as a fourth channel; noise is ignored."""

    factor, channels = 2, 4

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        small = F.avg_pool2d(x, 2)
        return torch.cat([small, small.sum(1, keepdim=True)], 1)

    def decode(self, z: Tensor) -> Tensor:
        return F.interpolate(z[:, :3] / 4, scale_factor=2)


class Letters(Conditioner):
    """A prompt is its letters."""

    def forward(self, request):
        def tokens(texts):
            rows = [[(ord(c) - 96) / 26 for c in text.ljust(6)[:6]] for text in texts]
            return {"tokens": torch.tensor(rows)[:, :, None]}

        negative = request.negative or [""] * len(request.prompts)
        return tokens(request.prompts), tokens(negative) if request.guided else None


def make(**changes) -> Generator:
    process = Gaussian(schedules.flow())
    denoiser = Denoiser(Net(), process, "velocity", (4, 6, 8)).eval()
    first = lambda steps, start=1.0, tokens=None: plans.ddim(steps, grid=uniform(start))  # noqa: E731
    return Generator(denoiser, first, Blocks(), Letters(), Defaults(SIZE, 4, 3.0, multiple=2)).but(**changes)


PICTURE = torch.sin(torch.arange(3 * 12 * 16.0)).reshape(1, 3, 12, 16)


def test_a_picture_depends_on_its_id_alone():
    model = make()
    many = model.run("a cat", count=4, seed=3).tensor
    for k in (0, 3):
        one = model.run("a cat", seed=3, first_id=k).tensor
        assert torch.allclose(many[k], one[0], atol=1e-5)
    both = model.run(["a cat", "a dog"], seed=3).tensor
    assert torch.allclose(both[0], many[0], atol=1e-5)
    assert not torch.allclose(both[1], many[1], atol=1e-2)


def test_requests_share_weights_and_nothing_else():
    model = make()
    alone = {word: model.run(word, seed=5, steps=6).tensor for word in ("red", "blue", "green")}
    weights = {n: v.clone() for n, v in model.denoiser.state_dict().items()}
    found: dict[str, Tensor] = {}
    threads = [threading.Thread(target=lambda w=word: found.update({w: model.run(w, seed=5, steps=6).tensor})) for word in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(alone[word], found[word]) for word in alone)
    assert all(torch.equal(v, weights[n]) for n, v in model.denoiser.state_dict().items())


def test_guidance_is_one_batched_call_away_from_the_negative():
    model = make()
    net = model.denoiser.net
    net.asked.clear()
    guided = model.run("cat", negative="dog", guidance=2.0, steps=1, seed=1).latents
    assert [len(z) for z in net.asked] == [2]
    # one step of the flow: x = z - v, linear in v
    (start,) = {z[0] for z in net.asked}
    tokens = Letters()(type("R", (), {"prompts": ["cat"], "negative": ["dog"], "guided": True}))
    one = torch.tensor([1000.0])
    v, away = (net(start[None], one, c) for c in tokens)
    assert torch.allclose(guided, start - (away + 2.0 * (v - away)), atol=1e-5)
    net.asked.clear()
    model.run("cat", guidance=1.0, steps=1)
    assert [len(z) for z in net.asked] == [1]


def test_strength_is_a_noise_level_the_same_for_every_plan():
    model = make()
    net = model.denoiser.net
    begun = []
    for plan in (
        None,
        plans.ddim(3, grid=uniform(0.4)),
        plans.dpmpp(5, grid="uniform;start=0.4"),
        "heun:3:grid=uniform;start=0.4",
    ):
        net.asked.clear()
        model.run("cat", image=PICTURE, strength=0.4, seed=2, plan=plan, steps=7 if plan is None else None, guidance=1.0)
        begun.append(net.asked[0])
    assert all(torch.equal(begun[0], z) for z in begun[1:])
    latents = Blocks().encode(PICTURE)
    noise = (begun[0] - 0.6 * latents) / 0.4
    assert abs(float(noise.mean())) < 0.25 and abs(float(noise.std()) - 1) < 0.2


@pytest.mark.parametrize(
    ("plan", "cut"),
    [
        ("default:4", lambda: plans.multistep(4, "x0", "lam", 2, True, grid="angle;center=1.05;power=0.62;start=0.4")),
        ("trig:4", lambda: plans.trig(4, grid="angle;center=0.5;power=0.73;start=0.4")),
        ("dpmpp:4:grid=karras", lambda: plans.dpmpp(4, grid="karras;start=0.4")),
        ("ddim:5:grid=uniform;start=0.8", lambda: plans.ddim(5, grid=uniform(0.4))),
        # timesteps 751, 501, 251, 1 of 1000, drawn together until the first stands at 0.4
        ("ddim:4:grid=leading", lambda: plans.ddim(4, grid=plans.grids.given([0.4 * k / 752 for k in (752, 502, 252, 2, 0)]))),
    ],
)
def test_another_sampler_takes_all_its_steps_below_the_strength(plan, cut):
    model = make()
    asked = {"image": PICTURE, "strength": 0.4, "seed": 2}
    ours, by_hand = model.run("cat", plan=plan, **asked), model.run("cat", plan=cut(), **asked)
    assert torch.allclose(ours.latents, by_hand.latents, atol=1e-5)
    assert ours.info[0]["plan"] == plan and ours.info[0]["steps"] == by_hand.info[0]["steps"]
    assert not torch.allclose(ours.latents, model.run("cat", plan=plan, seed=2).latents, atol=1e-2)


def test_a_peers_sampler_begins_at_the_strength_too():
    process = Gaussian(schedules.betas("scaled_linear"))
    model = make(denoiser=Denoiser(Net(), process, "v", (4, 6, 8)).eval())
    # Karras' seven roots between the noise at the strength and at the lowest of the thousand levels below it
    high, low = (float(s / a) for a, s in (process.schedule(0.5), process.schedule(0.5 / 1000)))
    ratios = torch.tensor([(high ** (1 / 7) + k / 3 * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for k in range(4)]).double()
    levels = [0.5, *process.schedule.invert(-2 * ratios.log()).tolist()[1:], 0.0]
    asked = {"image": PICTURE, "strength": 0.5, "seed": 2}
    ours = model.run("cat", plan="diffusers:4:sampler=dpmpp_2m,sigmas=karras", **asked).latents
    by_hand = model.run("cat", plan=plans.dpmpp(4, grid=plans.grids.given(levels)), **asked).latents
    assert torch.allclose(ours, by_hand, atol=1e-3)  # the peer tells its network whole timesteps
    with pytest.raises(ValueError, match="above the schedule's"):
        model.run("cat", plan="edm:4", **asked)


def test_the_record_of_an_adaptive_plan_says_the_evaluations_that_it_took():
    model, calls = make(), []
    model.denoiser.register_forward_hook(lambda *_: calls.append(1))
    made = model.run("cat", plan="adaptive:rtol=0.1,atol=0.1", guidance=1.0)
    assert made.info[0]["steps"] == len(calls) and 6 < len(calls) < 1000
    with pytest.raises(ValueError, match="takes as many as it needs"):
        model.run("cat", plan="adaptive", steps=5)


def test_a_plan_that_is_written_out_is_not_moved():
    model = make()
    written = plans.ddim(5).on(schedules.flow())
    with pytest.raises(ValueError, match=r"written out from level 1, and 0\.4 is asked.*plans\.after"):
        model.run("cat", image=PICTURE, strength=0.4, plan=written)
    model.run("cat", image=PICTURE, strength=0.4, plan=plans.after(written, 0.4))
    with pytest.raises(ValueError, match=r"begins at level 0\.3 at most, and 0\.4 is asked; give its grid start=1"):
        model.run("cat", image=PICTURE, strength=0.4, plan="ddim:5:grid=uniform;start=0.3")
    with pytest.raises(ValueError, match=r"begins at level 0\.25 by itself, and 0\.4 is asked"):
        model.run("cat", image=PICTURE, strength=0.4, plan=f"k_diffusion:4:sigma_max={1 / 3!r}")


def test_what_a_mask_leaves_is_the_picture_itself():
    model = make()
    mask = torch.zeros(12, 16)
    mask[4:8, 4:12] = 1
    result = model.run("cat", image=PICTURE, mask=mask, seed=4)
    hole = mask.bool().expand(3, 12, 16)
    assert torch.equal(result.tensor[0][~hole], PICTURE[0][~hole])
    assert not torch.allclose(result.tensor[0][hole], PICTURE[0][hole], atol=0.1)
    # latents that no pixel of the mask touches are those of the picture
    untouched = ~(F.max_pool2d(mask[None, None], 2) > 0).expand(1, 4, 6, 8)
    assert torch.allclose(result.latents[untouched], Blocks().encode(PICTURE)[untouched], atol=1e-5)


def test_previews_are_the_decoder_where_it_is_linear():
    shown, steps = [], []
    model = make()

    def watch(progress):
        shown.append(progress.preview())
        steps.append(progress.step)

    result = model.run("cat", steps=5, seed=1, callback=watch)
    assert [s.row for s in steps] == list(range(5)) and len(shown) == 5
    for step, picture in zip(steps, shown, strict=True):
        whole = F.avg_pool2d(Blocks().decode(step.belief.mean).clamp(-1, 1), 2)
        assert float((picture - whole).abs().mean()) < 0.1
    assert torch.allclose(Blocks().decode(result.latents).clamp(-1, 1), result.tensor)
    # a watched request is the same request
    assert torch.equal(result.tensor, model.run("cat", steps=5, seed=1).tensor)


def test_records_are_read_back(tmp_path):
    model = make(name="toy", fingerprint="0123")
    result = model.run("a \u732b (cat)", negative="dog", seed=11, steps=2)
    path = save_png(result.images[0], tmp_path / "one.png", result.info[0])
    record = read_record(path)
    assert record == result.info[0] and record["prompt"] == "a \u732b (cat)" and record["seed"] == 11
    again = model.run(record["prompt"], negative=record["negative"], seed=record["seed"], first_id=record["id"],
                      steps=record["steps"], size=tuple(record["size"]), guidance=record["guidance"])  # fmt: skip
    with Image.open(path) as saved:
        assert saved.tobytes() == again.images[0].tobytes()
    with pytest.raises(ValueError, match="characters"):
        save_png(result.images[0], tmp_path / "two.png", {"prompt": "a" * LONGEST})
    assert not (tmp_path / "two.png").exists()
    save_png(result.images[0], tmp_path / "bare.png")
    assert read_record(tmp_path / "bare.png") == {}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"size": (15, 12)}, "multiples of 2"),
        ({"count": 0}, "count is 0"),
        ({"steps": 0}, "steps is 0; ask for at least 1, or leave it out for the publisher"),
        ({"label": 3}, "knows no classes"),
        ({"strength": 0.5}, "give image="),
        ({"image": PICTURE}, "strength="),
        ({"image": PICTURE, "strength": 1.5}, "strength is 1.5"),
        ({"mask": torch.zeros(12, 16)}, "image="),
        ({"control": PICTURE}, "hints"),
        ({"negative": ["a", "b"]}, "negative has 2"),
        ({"image": PICTURE * 300, "strength": 0.5}, r"\[-1, 1\]"),
        ({"guidance": "strong"}, "guidance is 'strong'"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(asked, words):
    with pytest.raises(ValueError, match=words):
        make().run("cat", **asked)


def test_a_prompt_is_for_models_that_read():
    with pytest.raises(ValueError, match="reads text"):
        make().run()
    with pytest.raises(ValueError, match="reads no text"):
        make(conditioner=None).run("cat")
    with pytest.raises(ValueError, match="0 to 9"):
        make(conditioner=None, defaults=Defaults(SIZE, 4, 1.0, multiple=2, classes=10)).run()


def test_strength_nothing_is_the_picture_and_the_network_is_not_asked():
    model = make()
    model.denoiser.net.forward = None  # pyright: ignore
    made = model.run("cat", image=PICTURE, strength=0.0, seed=2)
    assert torch.equal(made.tensor, PICTURE)
    assert made.info[0]["strength"] == 0.0 and len(made.info) == 1


def test_inspect_names_the_pictures_that_are_to_be_given_again(tmp_path):
    """A record has their hashes alone."""
    grey = Image.new("RGB", (8, 8))
    for name, record, wanted in (
        ("plain", {"prompt": "a cat"}, "`langevin generate PATH --again plain.png` draws it again"),
        ("shown", {"prompt": "a cat", "image": "0" * 64, "mask": "1" * 64}, "shown.png --image THE-SAME --mask THE-SAME` draws"),
        ("edited", {"prompt": "a cat", "edited": {"from": "a dog"}}, "langevin edit makes it of that again"),  # --again does not
    ):
        assert wanted in describe(save_png(grey, tmp_path / f"{name}.png", record))
