"""What is done with a run: langevin sample, evaluate, inspect; and the list of recipes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from langevin.cli.asking import Refusal, parse
from langevin.cli.designing import properties_of
from langevin.cli.weights import strengths
from langevin.files import make_folder
from langevin.inspection import is_ours
from langevin.recipes import RECIPES


@dataclass(frozen=True)
class _Sample:
    run: Positional[Path]
    """Run directory."""
    out: Path
    """File to write: .png, which says how it was made, .gif for the whole way, .npy for the numbers themselves; a name without an
    ending is a folder of pictures, one each; what else there is depends on the data."""
    count: int | None = None
    """How many; 16 by default, or as many as there are in --source or --image."""
    source: Path | None = None
    """What a run between two data sets begins at: a folder of pictures, or a .npy; held-out samples by default."""
    plan: str | None = None
    """Plan as NAME:STEPS, such as dpmpp:20 or ddim:50:eta=0.5, auto:10, dpmpp:10:grid=optimal for levels placed on the run's
    model, or a saved .json; the recipe's by default."""
    seed: int = 0
    """Any integer; sample k is the same sample whatever the count."""
    label: str | None = None
    """One class, by its number or its name; all in turn by default."""
    prompt: tuple[str, ...] = ()
    """Captions for a run that reads them, in turn; held-out ones by default."""
    property: tuple[str, ...] = ()
    """Conditions that are numbers, for a run that has such, as in logp=2."""
    guidance: float | None = None
    """Classifier-free w; 1 is unguided."""
    steer: Path | None = None
    """Regressor that langevin regress made for this run: samples are steered to those of --property that it knows; by the next
    state under a plan tilted:N, by beliefs under others."""
    image: tuple[Path, ...] = ()
    """Pictures to begin at, in turn: each is raised to the noise level of --strength, and drawn down again."""
    strength: float | None = None
    """With image: that level, above 0 and at most 1, 0.5 by default; the higher, the freer. With steer: log p = -strength (value
    - asked)^2, in units of the property's deviation; 10 by default."""
    weaker: Path | None = None
    """Lead samples away from these weights of the run, named as --weights is: autoguidance, by an earlier average (langevin ema
    RUN --at SAMPLES) or another that is worse."""
    apart: float | None = None
    """With weaker: how far, the w of autoguidance; 1 is not at all, and 2 the default."""
    explore: float | None = None
    """Of a run of numbers, such as community-gdss: draw beyond its data, by 1 - sqrt(explore) of the score (MOOD); 0 is not at
    all, 0.04 what the source takes."""
    weights: Path | None = None
    """In place of the run's own average: a safetensors file, as langevin ema writes; another of its averages by name; or last."""
    lora: tuple[str, ...] = ()
    """Adapters as FILE or FILE:STRENGTH, such as langevin lora writes."""
    codec: str | None = None
    """Of a run of latents: where its autoencoder is now, if it has moved."""
    device: str = "auto"
    """cpu, cuda, or auto."""


def sample(args: Sequence[str]) -> None:
    """Draw samples from a run; a PNG says how, to `langevin inspect`."""
    asked = parse(_Sample, args, "langevin sample")
    if asked.count is not None and asked.count < 1:
        raise Refusal(f"count is {asked.count}; ask for at least 1.")
    if asked.strength is not None and asked.steer is None and not asked.image:
        raise Refusal(
            f"strength is {asked.strength:g}, of what samples are steered by, which --steer names, or of pictures to begin at, "
            "which --image names; leave it out."
        )
    if asked.image and asked.steer is not None:
        raise Refusal(f"image is {asked.image[0]}, of pictures, and --steer {asked.steer} is of graphs; leave one of them out.")
    if asked.apart is not None and asked.weaker is None:
        raise Refusal(f"apart is {asked.apart:g}, from weights that --weaker names; say --weaker, or leave it out.")
    if asked.apart is not None and not math.isfinite(asked.apart):
        raise Refusal(f"apart is {asked.apart:g}; give a finite number, 1 for not at all.")
    if asked.explore is not None and not 0 <= asked.explore < 1:
        raise Refusal(f"explore is {asked.explore:g}; give a number from 0 and below 1.")
    around = [name for name in ("steer", "weaker", "explore") if getattr(asked, name) is not None]
    if len(around) > 1:
        raise Refusal(f"{around[0]} and {around[1]} are both guidance around that of conditions; give one of them.")
    from langevin.recipes.drawing import source_of, used
    from langevin.recipes.opening import exploring, led_away, open_run
    from langevin.recipes.report import write_samples

    run, away = open_run(asked.run, asked.weights, strengths(asked.lora), device=asked.device, codec=asked.codec), None
    if asked.weaker is not None:
        run, away = led_away(run, asked.weaker, 2.0 if asked.apart is None else asked.apart, asked.device)
    elif asked.explore is not None:
        run, away = exploring(run, asked.explore)
    source = None if asked.source is None else source_of(run, asked.source)
    count = asked.count or max(len(asked.prompt), len(asked.image)) or (16 if source is None else len(source))
    make_folder(asked.out.parent, "out")
    label = None if asked.label is None else run.facts.label(asked.label)
    options: dict[str, Any] = {"plan": asked.plan, "seed": asked.seed, "label": label, "guidance": asked.guidance}
    options |= {"prompts": asked.prompt} | ({} if away is None else {"steer": away})
    if asked.image:
        from langevin.recipes.editing import pictures_of

        options["image"] = pictures_of(run, asked.image)
        options |= {} if asked.strength is None else {"strength": asked.strength}
    wanted = properties_of(asked.property) or {}
    if asked.steer is not None:
        from langevin.recipes.regressing import aimed

        options["steer"], wanted = aimed(run, asked.steer, wanted, 10.0 if asked.strength is None else asked.strength, asked.plan)
    if wanted:
        options["properties"] = wanted
    with used() as batches:
        print(write_samples(run, asked.out, count, source=source, **options))
    if batches:
        each = f" in {len(batches)} batches" if len(batches) > 1 else ""
        print(f"{', '.join(map(str, batches))} evaluations{each}")


@dataclass(frozen=True)
class _Evaluate:
    run: Positional[Path]
    """Run directory; or a folder of pictures, with --against."""
    against: Path | None = None
    """Folder of real pictures."""
    features: str = "auto"
    """A safetensors file with InceptionTF or DINOv2, or a folder with a CLIP; classifier or pca; auto is the classifier where
    there are labels."""
    metrics: tuple[str, ...] = ()
    """Of fd, fd_infinity, kid, is, cmmd, prdc and, for runs, labels, clip, memory; fd, labels and memory by default."""
    small: bool = False
    """Accept fewer samples or real pictures than the 10,000 of published practice; the card will say so."""
    count: int | None = None
    """Samples of a run; 10,000 by default, 1,000 with --small."""
    plan: str | None = None
    """Plan as NAME:STEPS; the recipe's by default."""
    seed: int = 1
    """Seed of the samples, and of what metrics draw."""
    guidance: float | None = None
    """One w; 1 and 1.5 by default."""
    property: tuple[str, ...] = ()
    """Conditions that are numbers, as in logp=2: how near samples come to them, beside those that are asked for nothing."""
    weights: Path | None = None
    """In place of the run's own average: a safetensors file, as langevin ema writes; another of its averages by name; or last."""
    lora: tuple[str, ...] = ()
    """Adapters as FILE or FILE:STRENGTH, such as langevin lora writes."""
    codec: str | None = None
    """Of a run of latents: where its autoencoder is now, if it has moved."""
    size: int | None = None
    """Side to which the pictures of two folders are brought; their own by default."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    json: bool = False
    """Print JSON, with the protocol card."""


def evaluate(args: Sequence[str]) -> None:
    """Judge a run against held-out real data, or a folder of pictures against another."""
    asked = parse(_Evaluate, args, "langevin evaluate")
    shared = {"features": asked.features, "metrics": asked.metrics, "small": asked.small, "seed": asked.seed}
    if asked.against is not None:
        for name in ("count", "plan", "guidance", "property", "weights", "lora", "codec"):
            if (value := getattr(asked, name)) not in (None, ()):
                raise Refusal(f"{name} is {value}, but two folders are compared as they are; leave it out.")
        if asked.size is not None and asked.size < 1:
            raise Refusal(f"size is {asked.size}; give a side in pixels, or leave it out.")
        for name, folder in (("run", asked.run), ("against", asked.against)):
            if is_ours(folder):  # whose pictures are pages of many
                raise Refusal(f"{name} is {folder}, a run, and two folders of pictures are compared; draw a folder of them with "
                              "langevin sample RUN --out FOLDER.")  # fmt: skip
        from langevin.recipes.folders import evaluate_folders

        result = evaluate_folders(asked.run, asked.against, size=asked.size, device=asked.device, **shared)
    else:
        if asked.size is not None:
            raise Refusal(f"size is {asked.size}, but a run's pictures have the size of its recipe; leave it out.")
        from langevin.data.progress import watched
        from langevin.recipes.evaluation import evaluate as measure
        from langevin.recipes.opening import open_run

        run = open_run(asked.run, asked.weights, strengths(asked.lora), codec=asked.codec)
        with watched():
            result = measure(
                run, count=asked.count, plan=asked.plan, guidance=asked.guidance, properties=properties_of(asked.property),
                folder=asked.run, device=asked.device, **shared,
            )  # fmt: skip
    print(result.model_dump_json(indent=1) if asked.json else result)


def recipes(args: Sequence[str]) -> None:
    """List the recipes and what each should reach."""
    parse(_Nothing, args, "langevin recipes")
    for name, make in RECIPES.items():
        r = make()
        print(f"{name:16} {r.about}\n{'':16} expects: {r.expects}")


@dataclass(frozen=True)
class _Nothing:
    pass
