"""langevin augment: labelled pictures painted anew in part by the model of a run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from langevin.cli.asking import Refusal, parse


@dataclass(frozen=True)
class _Augment:
    run: Positional[Path]
    """Run directory, of a model that was trained on such pictures, with labels or without."""
    data: Positional[Path]
    """Pictures: a folder (classes by subfolder, captions.jsonl if there is one), a .npy, or a folder of idx files, of which a run
    of mnist gives its own training split."""
    out: Path
    """Folder to write: pictures/, augmented.csv, report.json, page.png. The same command goes on where it was stopped."""
    label: Path | None = None
    """Class numbers of a .npy, in another .npy."""
    count: int | None = None
    """The first so many pictures of a .npy or of idx files; all by default."""
    mask: str = "stripes"
    """What is painted anew and kept in turn: stripes (vertical ones, and horizontal ones), vertical, or horizontal."""
    thickness: tuple[int, ...] = (4,)
    """Of the stripes in pixels; several make a set each."""
    first: tuple[str, ...] = ("new",)
    """What the stripe at the left or top edge is: new, as published, kept, or both: of half the side, the four halves."""
    draws: int = 2
    """New pictures of each picture and mask."""
    rounds: int = 1
    """How often each is painted anew, under one mask after the other: what is kept shrinks, and differs more from its source."""
    steps: int = 250
    """Levels of RePaint."""
    jump: int = 10
    """Levels back up at a time."""
    resample: int = 10
    """How often each stretch is walked down. 250, 10, 10 are 2410 evaluations; 50, 5, 3 are 140."""
    limit: float = 0.5
    """Largest RMSE, of pictures in [-1, 1], of a new picture to its source for the label to stand."""
    judge: bool = False
    """A small classifier, trained on the sources, has to see the same label: for wide stripes, which may change it."""
    untold: bool = False
    """Do not tell a class-conditional model the label."""
    no_originals: bool = False
    """Leave out of pictures/ the pictures as they were."""
    test: Path | None = None
    """Other labelled pictures, given as DATA is (of idx files the test split), for what a small classifier gains by the new."""
    test_label: Path | None = None
    """Their class numbers, if they are a .npy."""
    batch: int = 16
    """Pictures at a time; what a stop can lose."""
    seed: int = 0
    """Any integer."""
    device: str = "auto"
    """cpu, cuda, or auto."""


def augment(args: Sequence[str]) -> None:
    """Paint parts of labelled pictures anew, check them, and write them for people and for training."""
    asked = parse(_Augment, args, "langevin augment")
    if asked.test_label is not None and asked.test is None:
        raise Refusal(f"test-label is {asked.test_label}, and no test is given; say --test.")
    from langevin.recipes.augmenting import Wanted, augmentation, read
    from langevin.recipes.build import open_run

    run = open_run(asked.run, device=asked.device)
    shape = run.facts.shape
    if not isinstance(shape, tuple):
        raise Refusal("this run is of a product; augment works on pictures.")
    held = run.recipe.data.test if run.recipe.data.kind == "mnist" else None
    if asked.test is not None and held is None and asked.test.resolve() == asked.data.resolve():
        raise Refusal(f"test is {asked.test}, which is what is augmented; test on other pictures.")
    source = read(asked.data, shape, asked.label, asked.count, held_out=held)
    test = None if asked.test is None else read(asked.test, shape, asked.test_label, split="test", held_out=held)
    wanted = Wanted(
        mask=asked.mask, thickness=asked.thickness, first=asked.first, judge=asked.judge,
        draws=asked.draws, rounds=asked.rounds, steps=asked.steps, jump=asked.jump, resample=asked.resample,
        limit=asked.limit, told=not asked.untold, originals=not asked.no_originals, seed=asked.seed, batch=asked.batch,
    )  # fmt: skip
    print(json.dumps(augmentation(run, source, asked.out, wanted, test), indent=1))
    print(asked.out / "page.png")
