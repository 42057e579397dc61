"""A setting that nothing would read is refused before training, and not ignored."""

import re

import numpy as np
import pytest
import torch

from langevin.cli import main
from langevin.config import TrainConfig
from langevin.recipes import RECIPES, recipe, unread
from langevin.recipes import config as c
from langevin.recipes import objectives as o
from langevin.recipes.build import build
from langevin.recipes.config.tuning import METHODS, Tuning
from langevin.recipes.drawing import draw
from langevin.recipes.evaluation import evaluate
from langevin.recipes.in_loop import evaluator
from langevin.recipes.likelihood import likelihood
from langevin.recipes.starting import start

CASES = {
    "train.decay is 0.5, which is read only with schedule wsd; leave it out.": {"train": TrainConfig(decay=0.5)},
    "train.hold is 9, which is read only with schedule inverse_sqrt": {"train": TrainConfig(hold=9)},
    "data.levels is 8, which is read only with form categories": {"data": c.DigitsData(levels=8)},
    "data.target.levels is 8": {"data": c.TransferData(target=c.DigitsData(levels=8))},
    "data.bucket_step is 4, which is read only with aspect": {"data": c.ImagesData(bucket_step=4)},
    "data.max_skipped is 0.5, which is read only with broken skip": {"data": c.ShardsData(max_skipped=0.5)},
    "data.vocabulary is 300, which is read only with alphabet pieces": {"data": c.TextData(vocabulary=300)},
    "data.key is =, which is read only of lines": {"data": c.TextData(key="=")},
    "process.shape is sine, which is read only where noise is above 0": {"process": c.InterpolantConfig(shape="sine")},
    "network.style is ddpm, which is read only without transformer": {"network": c.UNetConfig(style="ddpm", transformer=1)},
    "network.attention is (2,), which is read only of resolutions that there are": {"network": c.UNetConfig(attention=(2,))},
    "network.published is True, which is read only where features": {
        "network": c.GraphTransformerConfig(features=("size",), published=True)
    },
    "finetune.lora.alpha is 4, which is read only where rank is above 0": {
        "finetune": c.FinetuneConfig(lora=c.LoRAConfig(alpha=4.0))
    },
    "codec.dtype is float32, which is read only with an origin": {"codec": c.CodecConfig(dtype="float32")},
    "evaluation.count is 50, which is read only where every is above 0": {"evaluation": c.EvaluationConfig(count=50)},
    "objective.decay is 0.5, which is read only without improved": {"objective": o.ConsistencyConfig(improved=True, decay=0.5)},
    "objective.mean is 0, which is read only with improved": {"objective": o.ConsistencyConfig(mean=0.0)},
    "objective.order is 1, which is read only with a teacher": {"objective": o.ConsistencyConfig(order=1)},
    "objective.r1 is 1, which is read only where adversarial is above 0": {"objective": o.DistributionMatchingConfig(r1=1.0)},
    "objective.after is 0.1, which is read only where adversarial is": {"objective": o.AutoencodingConfig(after=0.1)},
}


@pytest.mark.parametrize("said", CASES)
def test_what_nothing_reads_is_refused(said):
    with pytest.raises(ValueError) as caught:
        unread.check(recipe("digits").model_copy(update=CASES[said]))
    assert str(caught.value).startswith(said) and str(caught.value).endswith("; leave it out.")


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_has_such_a_setting(name):
    unread.check(RECIPES[name]().model_copy(update={"name": "another"}))


def test_a_recipe_may_bring_what_a_flag_makes_idle(monkeypatch):
    # whoever says --train.schedule cosine of a recipe of wsd need not take back its decay as well
    own = recipe("digits").model_copy(update={"train": TrainConfig(schedule="wsd", decay=0.3)})
    monkeypatch.setitem(RECIPES, "digits", lambda: own)
    unread.check(own.model_copy(update={"train": TrainConfig(decay=0.3)}))
    with pytest.raises(ValueError, match=r"train.decay is 0.4"):
        unread.check(own.model_copy(update={"train": TrainConfig(decay=0.4)}))


def test_a_run_begins_by_looking(tmp_path):
    with pytest.raises(ValueError, match=r"train.decay is 0.5"):
        start(recipe("two-moons").model_copy(update={"train": TrainConfig(decay=0.5)}), tmp_path / "run")
    # found when samples were drawn, after training
    guided = recipe("digits").model_copy(
        update={"data": c.DigitsData(labels=False), "network": c.UNetConfig(width=8), "sample": c.SampleConfig(guidance=2.0)}
    )
    with pytest.raises(ValueError, match=r"sample.guidance is 2, but this run has no condition to strengthen; use 1."):
        start(guided, tmp_path / "run")
    run, trainer = start(guided.model_copy(update={"sample": c.SampleConfig()}), tmp_path / "run")
    trainer.close()
    with pytest.raises(ValueError, match=r"evaluation.guidance is 2, but this run has no condition"):
        evaluator(run, out=tmp_path, guidance=2.0)


JOINT = recipe("digits-product")
BETWEEN = recipe("digits-transfer")
PARTS = {
    "data.form is 'joint', and data.only 3 leaves one label": (JOINT, {"data": c.DigitsData(form="joint", only=3)}),
    "this data is a picture and its label as one": (JOINT, {"process": c.GaussianConfig(), "network": c.DiTConfig()}),
    "process is 'product', of a picture and its label, and this data": (JOINT, {"data": c.DigitsData()}),
    "network is 'mlp', which reads numbers, and the process is of cat": (
        recipe("two-moons"), {"process": c.CategoricalConfig()}
    ),
    "objective.coupling is 'paired', and data.paired is False": (BETWEEN, {"objective": o.DenoisingConfig(coupling="paired")}),
    "data.paired is True, and objective.coupling 'ot' would pair anew": (BETWEEN, {"data": c.TransferData(paired=True)}),
}  # fmt: skip


@pytest.mark.parametrize("said", PARTS)
def test_parts_that_do_not_fit_are_refused(said):
    base, changes = PARTS[said]
    with pytest.raises(ValueError) as caught:
        build(base.model_copy(update=changes))
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_rows_of_categories_are_learned_by_a_sequence(tmp_path):
    rows = torch.randint(0, 5, (60, 6), generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "x.npy", rows.numpy())
    made = recipe("two-moons").model_copy(
        update={
            "data": c.ArraysData(x=str(tmp_path / "x.npy"), test=20), "process": c.CategoricalConfig(categories=5),
            "network": c.SequenceConfig(width=16, depth=1, heads=1), "train": TrainConfig(steps=2, batch=8),
            "sample": c.SampleConfig(plan="ddpm:3"),
        }
    )  # fmt: skip
    for network, said in ((c.SequenceConfig(block=2), "block is 2"), (c.MLPConfig(), "use 'sequence'")):
        with pytest.raises(ValueError, match=said):
            build(made.model_copy(update={"network": network}))
    run, trainer = start(made, tmp_path / "run")
    trainer.run(False)
    trainer.close()
    x = draw(run, 7)
    assert x.shape == (7, 6) and x.dtype == torch.int64 and int(x.min()) >= 0 and int(x.max()) < 5
    assert evaluate(run, count=20, small=True).metrics["energy_distance_real"] < 1
    with pytest.raises(ValueError, match=r"evaluation.metrics are kid, and points are judged by their energy distance alone"):
        evaluator(run, out=tmp_path, metrics=("kid",))
    with pytest.raises(ValueError, match=r"solver is heun, of a flow, and this is a bound; leave it out"):
        likelihood(run, solver="heun")
    with pytest.raises(ValueError, match="given is True, and these samples come without a condition"):
        likelihood(run, given=True)


UNREAD = (
    ({"draws": 4}, "draws is 4, of a bound, and the flow of this run is followed by ad"),
    ({"steps": 9}, "steps is 9, of a solver that is not adaptive"),
    ({"solver": "heun", "tolerance": 1e-3}, "tolerance is 0.001, of the adaptive solver"),
    ({"bound": True, "probes": 2}, "probes is 2, of a flow, and this is a bound"),
)


@pytest.mark.parametrize("given, said", UNREAD)
def test_a_likelihood_is_told_nothing_that_its_method_does_not_read(given, said):
    made = recipe("two-moons").model_copy(update={"network": c.MLPConfig(width=8, depth=1), "data": c.MoonsData(count=100)})
    with pytest.raises(ValueError, match=said):
        likelihood(build(made), **given)


def test_a_strength_of_steering_needs_what_steers(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["sample", str(tmp_path), "--strength", "3", "--out", str(tmp_path / "x.npy")])
    said = "of what samples are steered by, which --steer names, or of pictures to begin at, which --image names; leave it out."
    assert f"strength is 3, {said}" in capsys.readouterr().err


@pytest.mark.parametrize("args, said", [
    ("sample RUN --apart 3 --out x.npy", "apart is 3, from weights that --weaker names; say --weaker, or leave it out."),
    ("sample RUN --weaker last --apart nan --out x.npy", "apart is nan; give a finite number, 1 for not at all."),
    ("sample RUN --property logp=1 logp=2 --out x.npy", "property is 'logp=2', and logp is asked for twice; give one number"),
    ("sample RUN --lora a.safetensors:nan --out x.npy", "lora is 'a.safetensors:nan'; give a finite strength, 1 as it was"),
    ("generate published cat --measure", "measure tells the error of a cache, and there is none; say --cache, or leave it out."),
    ("sample RUN --property logp=inf --out x.npy", "property is 'logp=inf'; give a finite number, as in logp=2."),
    ("write RUN --blank #", "blank is '#', a sign in the text that --infill gives; say --infill, or leave it out."),
    ("write RUN --infill a##b --blank ##", "blank is '##'; give one sign, which stands for one token."),
    ("write RUN --out page.png", "out is page.png; write a .txt."),
    ("evaluate RUN --against other --features pca", "run is RUN, a run, and two folders of pictures are compared; draw a folder"),
    ("evaluate other --against RUN --features pca", "against is RUN, a run, and two folders"),
    ("evaluate other --against other --size 0", "size is 0; give a side in pixels, or leave it out."),
    ("distill --to lcm RUN", "the first word is --to, where the run stands; say langevin distill RUN --to KIND"),
    ("distill RUN --to progressive --train.steps 2 --out student", "train.steps is 2, and each of 5 stages halves the steps by"),
    ("distill RUN --to shortcut --steps 3 --out student", "steps is 3, and a shortcut student learns leaps of 1, 1/2 and so"),
    ("distill RUN --to shortcut --steps 8 --objective.finest 3 --out student",
     "steps is 8, and a shortcut student learns leaps of 1, 1/2 and so on to 1/4; say a power of two up to that, or a higher"),
    ("distill published --to lcm", "published is a published model, which learns on pictures; say langevin distill PATH"),
    ("distill RUN --to lcm --steps ²", "steps is '²'; give a number of evaluations, such as 1 or 4."),
    ("distill RUN --to reflow --rounds ²", "rounds is '²' of reflow; give a number of times from 1"),
])  # fmt: skip
def test_the_command_line_ignores_nothing_that_is_said(args, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, trainer = start(recipe("two-moons").model_copy(update={"network": c.MLPConfig(width=8, depth=1)}), "RUN")
    trainer.save()
    trainer.close()
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "model_index.json").write_text("{}")
    with pytest.raises(SystemExit) as end:
        main(args.split())
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and error.count("\n") == 1


@pytest.mark.parametrize("method, asked, said", [
    ("full", {"rank": 4}, "rank is 4, of adapters, and method is 'full'; leave it out."),
    ("full", {"text": True}, "text is True, of adapters"),
    ("lora", {"word": "<toy>"}, "word is <toy>, of textual-inversion, and method is 'lora'"),
    ("lora", {"prior": "a dog"}, "prior is a dog, of dreambooth"),
    ("lcm", {"prior_weight": 2.0}, "prior_weight is 2.0, of dreambooth"),
    ("lora", {"captions": "txt"}, "prompt is a dog, of pictures without captions, and captions is given"),
    ("dreambooth", {"prior": "a dog", "rank": 0, "alpha": 3.0}, "alpha is 3.0, of adapters, and rank is 0"),
    ("textual-inversion", {"prompt": None, "captions": "txt"}, "captions is txt, of pictures that are more than a word"),
    ("textual-inversion", {"prompt": "a {}", "rank": 2}, "rank is 2, of adapters"),
    ("textual-inversion", {"prompt": "a {}", "begin": " "}, "begin is ' '; give a word, such as object"),
])  # fmt: skip
def test_a_fine_tuning_is_told_nothing_that_its_method_does_not_read(method, asked, said):
    usual = {"prompt": "a dog", **METHODS[method], "method": method, "origin": "model", "data": "pictures"}
    with pytest.raises(ValueError, match=re.escape(said)):
        Tuning.model_validate({**usual, **asked})
    if "{}" in (prompt := asked.get("prompt") or usual["prompt"]) or method != "textual-inversion":
        Tuning.model_validate({**usual, "prompt": prompt, **({"prior": "a dog"} if method == "dreambooth" else {})})
