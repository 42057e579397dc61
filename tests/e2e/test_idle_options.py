"""Every option of every command is read in every mode, or refused by name in the modes that would leave it unread."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from langevin.cli import (
    augmenting,
    data,
    designing,
    distilling,
    editing,
    finetuning,
    generating,
    interpolating,
    likelihoods,
    main,
    plans,
    published,
    restoring,
    runs,
    training,
    upscaling,
    weights,
    writing,
)
from langevin.cli.commands import COMMANDS
from langevin.cli.loading import Loading
from langevin.recipes import config as c
from langevin.recipes import recipe
from langevin.recipes.starting import start
from tests.e2e.test_loaded import faces, folder  # noqa: F401
from tests.laws.test_edits import make

OPTIONS: dict[str, Any] = {
    "train": training._Train, "data emoji": data._Emoji, "data drawings": data._Drawings, "sample": runs._Sample,
    "generate": generating._Generate, "edit": editing._Change, "evaluate": runs._Evaluate, "recipes": runs._Nothing,
    "inspect": published._Inspect, "convert": published._Convert, "plan show": plans._PlanShow,
    "plan compare": plans._PlanCompare, "plan levels": plans._PlanLevels, "tune": plans._Tune, "distill": distilling._Distill,
    "finetune": finetuning._Finetune, "ema": weights._EMA, "lora": weights._LoRA, "publish": weights._Publish,
    "restore": restoring._Restore, "likelihood": likelihoods._Likelihood, "augment": augmenting._Augment,
    "write": writing._Write, "upscale": upscaling._Upscale, "interpolate": interpolating._Interpolate,
    "design": designing._Design, "regress": designing._Regress, "classify": designing._Classify,
}  # fmt: skip
SETTINGS = (c.Recipe, c.TrainConfig, c.GraphTransformerConfig)
"""Parts of a recipe, of which tests/laws/test_unread.py sees the same."""

READ = {
    "train": "origin out resume device processes samples",
    "data emoji": "out size font listing tones",
    "data drawings": "out size listing largest count clean",
    "sample": "run out count plan seed steer weaker explore weights lora device",
    "generate": "path size steps seed first_id count batch again plan cache out lora preview previews word dtype device budget",
    "edit": "path image source target size steps exact seed out",
    "evaluate": "run against small count plan seed weights lora device json",
    "recipes": "",
    "inspect": "path",
    "convert": "source target",
    "plan show": "plan json plot",
    "plan compare": "one other",
    "plan levels": "run plan json",
    "tune": "run steps out iterations batch count held_out device",
    "distill": "out resume device processes samples",
    "finetune": "method origin data captions size drop seed out resume device",
    "ema": "run sigma_rel out at",
    "lora": "run out",
    "publish": "run out",
    "restore": "run task out noise method plan picture measured samples count seed device",
    "likelihood": "run data count bound strangeness each weights seed device json",
    "augment": "run data out test device mask thickness first draws rounds steps jump resample limit originals batch seed",
    "write": "run prefix infill count plan best_of seed weights out device",
    "upscale": "paths out count noise plan tile keep seed device",
    "interpolate": "run out rows count samples device",
    "design": "run out goal device rounds count rules plan fresh steer property guidance seed",
    "regress": "run property out resume device",
    "classify": "run attributes out kind width depth heads dropout resume device",
}
"""Options that are read whatever else is said, and which a run that has no use for their kind refuses as a whole."""

# option -> a command line that would leave it unread. RUN is a run of points, PICTURES one of pictures without classes, TEXT
# and SENTENCES of texts by tokens and by points, DDPM a published model of pixels that is told nothing, FACES a folder of
# pictures, GREY some in a file
IDLE: dict[str, dict[str, str]] = {
    "train": {"other_data": "two-moons --out new --other-data", "shard": "two-moons --out new --shard"},
    "data drawings": {"seed": "--clean --seed 3"},
    "sample": {
        "source": "RUN --out x.npy --source FACES", "label": "RUN --out x.npy --label 1",
        "prompt": "RUN --out x.npy --prompt cat",
        "property": "RUN --out x.npy --property logp=1", "guidance": "RUN --out x.npy --guidance 2",
        "strength": "RUN --out x.npy --strength 3",
        "image": "RUN --out x.npy --image FACES/0.png", "apart": "RUN --out x.npy --apart 3",
        "codec": "RUN --out x.npy --codec RUN",
    },
    "generate": {
        "prompt": "DDPM cat", "negative": "DDPM --negative cat", "label": "DDPM --label 1", "guidance": "DDPM --guidance 3",
        "rescale": "DDPM --rescale 0.5", "image": "DDPM --image FACES/0.png", "strength": "DDPM --strength 0.5",
        "mask": "DDPM --mask FACES/0.png", "paste": "DDPM --no-paste", "noise_level": "DDPM --noise-level 3",
        "guess": "DDPM --guess", "original_size": "DDPM --original-size 8x8", "crop": "DDPM --crop 0 0",
        "target_size": "DDPM --target-size 8x8", "aesthetic_score": "DDPM --aesthetic-score 6",
        "negative_original_size": "DDPM --negative-original-size 8x8", "negative_crop": "DDPM --negative-crop 1 1",
        "negative_target_size": "DDPM --negative-target-size 8x8",
        "negative_aesthetic_score": "DDPM --negative-aesthetic-score 2", "negative_clip_skip": "DDPM --negative-clip-skip 1",
        "redux": "DDPM --redux FACES", "like": "DDPM --like FACES/0.png", "like_scale": "DDPM --like-scale 0.5",
        "measure": "DDPM --measure", "control": "DDPM --control FACES/0.png", "controlnet": "DDPM --controlnet DDPM",
        "control_scale": "DDPM --control-scale 0.5", "control_levels": "DDPM --control-levels 0.9 0.1",
        "clip_skip": "DDPM --clip-skip 1", "weighted": "DDPM --weighted", "long": "DDPM --long", "length": "DDPM --length 7",
        "adapters": "DDPM --adapters a=1", "tiny": "DDPM --tiny DDPM",
        "revision": "DDPM --revision a", "variant": "DDPM --variant fp16", "beside": "DDPM --beside DDPM",
        "configs": "DDPM --configs DDPM",
    },
    "edit": {
        "iterations": "X FACES/0.png a b --guidance 1 --iterations 9", "rate": "X FACES/0.png a b --guidance 1 --rate 0.1",
        "negative": "X FACES/0.png a b --guidance 1 --negative dog", "guidance": "CLASSES FACES/0.png 1 2 --guidance 3",
    },
    "evaluate": {
        "features": "RUN --small --features pca", "metrics": "RUN --small --metrics fd", "guidance": "RUN --small --guidance 2",
        "property": "RUN --small --property logp=1", "codec": "RUN --small --codec RUN", "size": "RUN --small --size 8",
    },
    "inspect": {"verify": "DDPM --verify", "variant": "RUN --variant fp16"},
    "convert": {
        "layout": "old.pt new --layout flux", "lora": "old.pt new --lora a.safetensors", "dtype": "old.pt new --dtype float16",
        "beside": "old.pt new --beside DDPM", "configs": "old.pt new --configs DDPM", "part": "DDPM new --part ema",
        "ignore": "old.pt new.safetensors --ignore a.B",
    },
    "plan show": {"process": "written.json --process edm"},
    "plan compare": {"process": "written.json written.json --process edm"},
    "tune": {"guidance": "RUN --steps 3 --guidance 2"},
    "distill": {
        "tune": "RUN --to mean-flow --out new --tune --samples 0", "other_data": "RUN --to mean-flow --out new --other-data",
        "shard": "RUN --to mean-flow --out new --shard",
    },
    "finetune": {
        "beside": "DDPM FACES --method full --prompt a --out new --beside DDPM",
        "variant": "DDPM FACES --method full --prompt a --out new --variant fp16",
        **{name: f"DDPM FACES --method full --prompt a --{name.replace('_', '-')} {value}" for name, value in {
            "rank": 4, "alpha": 4, "targets": "a", "text": "", "prior": "a", "prior_count": 3, "prior_steps": 3,
            "prior_weight": 2, "word": "<a>", "begin": "toy", "vectors": 2, "guidance": 3,
        }.items()},
        "prompt": "DDPM FACES --method full --captions txt --prompt a",
    },
    "restore": {
        "amount": "DDPM --pictures FACES --out x.png --task colourise --amount 1",
        "mask": "DDPM --pictures FACES --out x.png --task deblur --mask FACES/0.png",
        "pictures": "PICTURES --pictures FACES --out x.png --task deblur",
        "rows": "DDPM --picture FACES/0.png --out x.png --task deblur --rows 3",
        "label": "PICTURES --out x.png --task deblur --label 1", "guidance": "PICTURES --out x.png --task deblur --guidance 2",
    },
    "likelihood": {
        "pictures": "DDPM FACES/0.npy --pictures FACES", "solver": "RUN --bound --solver heun", "steps": "RUN --steps 9",
        "tolerance": "RUN --solver heun --tolerance 1e-3", "probes": "RUN --bound --probes 2", "draws": "RUN --draws 3",
        "given": "RUN --given",
    },
    "augment": {
        "label": "PICTURES FACES --out new --label a.npy", "count": "PICTURES FACES --out new --count 2",
        "test_label": "PICTURES GREY --out new --test-label a.npy", "told": "PICTURES GREY --out new --no-told",
        "judge": "PICTURES GREY --out new --judge",
    },
    "write": {
        "length": "TEXT --infill a_b --length 9", "blank": "TEXT --blank #", "contains": "TEXT --contains thou",
        "tokens": "TEXT --tokens 3", "clamp": "TEXT --clamp 0.5", "temperature": "SENTENCES --temperature 0.5",
        "top": "SENTENCES --top 0.5", "attributes": "TEXT --attributes a", "classifier": "TEXT --classifier RUN",
    },
    "interpolate": {"pictures": "PICTURES --pictures FACES --out x.png", "codec": "PICTURES --codec RUN --out x.png",
                    "plan": "PICTURES --out x.png --plan ddim:3", "seed": "PICTURES --out x.png --seed 3",
                    "tolerance": "PICTURES --samples --tolerance 0.1 --out x.png"},
    "design": {
        "strength": "RUN --out new --strength 3", "parents": "RUN --out new --fresh 1 --parents 3",
        "level": "RUN --out new --fresh 1 --level 0.5",
    },
}  # fmt: skip
ELSEWHERE = {
    ("upscale", "overlap"): ("e2e/test_upscaling.py", "--overlap"),
    ("finetune", "other_data"): ("laws/test_first_day.py", "other_data is set, and nothing is resumed"),
}
"""Options that are seen to be refused by another test, which has what it takes: its file, and a word there."""


def names_of(kind: Any) -> set[str]:
    """The options of a command, those of its parts among them."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name for name, field in kind.model_fields.items() if field.annotation not in SETTINGS}
    found: set[str] = set()
    for field, hint in ((f, get_type_hints(kind)[f.name]) for f in fields(kind)):
        parts = is_dataclass(hint) or (isinstance(hint, type) and issubclass(hint, BaseModel))
        found |= set() if hint in SETTINGS else names_of(hint) if parts else {field.name}
    return found


def test_every_option_of_every_command_stands_here():
    assert {command.partition(" ")[0] for command in OPTIONS} == set(COMMANDS)
    assert {f.name for f in fields(Loading)} <= names_of(OPTIONS["generate"])  # and are no others in edit
    for command, kind in OPTIONS.items():
        read, idle = READ[command].split(), [*IDLE.get(command, ())]
        other = [name for of, name in ELSEWHERE if of == command]
        assert sorted([*read, *idle, *other]) == sorted(names_of(kind)), command
    root = Path(__file__).parents[1]
    assert all(words in (root / file).read_text() for file, words in ELSEWHERE.values())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the runs."""
    made = tmp_path_factory.mktemp("idle")
    (made / "verse.txt").write_text("thou art more lovely and more temperate " * 30)
    (made / "lines.txt").write_text("".join(f"{k}||thou art {word} .\n" for k in range(40) for word in ("fair", "kind")))
    np.save(made / "points.npy", np.sin(np.arange(200.0, dtype=np.float32)).reshape(100, 2))
    net = c.SequenceConfig(width=16, depth=1, heads=2)
    text, sentences = recipe("shakespeare"), recipe("e2e-embedding")
    short = {"path": (str(made / "lines.txt"),), "length": 24, "alphabet": "characters"}
    of = {
        "RUN": recipe("two-moons").model_copy(update={
            "network": c.MLPConfig(width=8, depth=1), "data": c.ArraysData(x=str(made / "points.npy"), test=20)}),
        "PICTURES": recipe("digits").model_copy(
            update={"data": c.DigitsData(labels=False), "network": c.UNetConfig(width=8), "sample": c.SampleConfig()}),
        "TEXT": text.model_copy(update={
            "data": text.data.model_copy(update={"path": (str(made / "verse.txt"),), "length": 16}), "network": net}),
        "SENTENCES": sentences.model_copy(update={
            "data": sentences.data.model_copy(update=short),
            "network": sentences.network.model_copy(update={"width": 16, "depth": 1, "heads": 2})}),
    }  # fmt: skip
    for name, one in of.items():
        _, trainer = start(one, made / name)
        trainer.save()
        trainer.close()
    torch.save({"w": torch.ones(2)}, made / "old.pt")
    np.save(made / "grey.npy", np.zeros((3, 1, 8, 8), np.float32))
    return made


@pytest.mark.parametrize("command, option", [(command, option) for command, lines in IDLE.items() for option in lines])
def test_what_a_mode_would_leave_unread_is_refused(command, option, place, folder, faces, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(place)
    if command == "edit":
        model = make()
        monkeypatch.setattr(editing, "model_of", lambda asked, size: model)
        if "CLASSES" in IDLE[command][option]:
            model = make().but(conditioner=None, defaults=make().defaults.__class__((4, 4), 4, 3.0, multiple=1, classes=5))
    if "written.json" in IDLE[command][option]:
        main(["plan", "show", "ddim:3", "--json"])
        (place / "written.json").write_text(capsys.readouterr().out)
    words = {"DDPM": folder, "FACES": faces, "GREY": place / "grey.npy"}
    args = [str(words[w]) if w in words else w.replace("FACES", str(faces)) for w in IDLE[command][option].split()]
    with pytest.raises(SystemExit) as end:
        main([*command.split(), *args])
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.startswith("langevin: ") and error.count("\n") == 1, error
    said = error.replace(str(place), "").replace(str(faces.parent), "")
    assert option in said or option.replace("_", "-") in said, error
