"""A setting that nothing would read is refused before training, and not ignored."""

import pytest

from langevin.config import TrainConfig
from langevin.recipes import RECIPES, recipe, unread
from langevin.recipes import config as c
from langevin.recipes import objectives as o
from langevin.recipes.in_loop import evaluator
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
