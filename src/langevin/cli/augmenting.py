"""langevin augment: labelled pictures painted anew in part by the model of a run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from langevin.cli.asking import Refusal, parse
from langevin.files import outside
from langevin.recipes.config.augmenting import Wanted


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
    test: Path | None = None
    """Other labelled pictures, given as DATA is (of idx files the test split), for what a small classifier gains by the new."""
    test_label: Path | None = None
    """Their class numbers, if they are a .npy."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    wanted: Annotated[Wanted, tyro.conf.arg(name="")] = field(default_factory=Wanted)


def augment(args: Sequence[str]) -> None:
    """Paint parts of labelled pictures anew, check them, and write them for people and for training."""
    asked = parse(_Augment, args, "langevin augment")
    if asked.test_label is not None and asked.test is None:
        raise Refusal(f"test-label is {asked.test_label}, and no test is given; say --test.")
    for data in (asked.data, asked.test):
        if data is not None:
            outside(asked.out, data, "out")
    from langevin.recipes.augmenting import augmentation, read
    from langevin.recipes.opening import open_run
    from langevin.recipes.sampling import of_pictures

    run = open_run(asked.run, device=asked.device)
    shape = of_pictures(run, "augment")
    held = run.recipe.data.test if run.recipe.data.kind == "mnist" else None
    if asked.test is not None and held is None and asked.test.resolve() == asked.data.resolve():
        raise Refusal(f"test is {asked.test}, which is what is augmented; test on other pictures.")
    source = read(asked.data, shape, asked.label, asked.count, held_out=held)
    test = None if asked.test is None else read(asked.test, shape, asked.test_label, split="test", held_out=held)
    print(json.dumps(augmentation(run, source, asked.out, asked.wanted, test), indent=1))
    print(asked.out / "page.png")
