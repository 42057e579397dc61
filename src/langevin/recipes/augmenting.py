"""A run's model used to augment labelled pictures: what is written for people and for training, and what came of it."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from langevin import pictures
from langevin.core.tree import leaves
from langevin.data import Arrays, Pictures, mnist
from langevin.data.cache import Stale
from langevin.data.decode import SUFFIXES
from langevin.data.progress import shown
from langevin.evaluate import PCA, extract, frechet, kept_classifier, train_classifier
from langevin.files import write
from langevin.plans.inverse import repaint
from langevin.recipes.build import Run
from langevin.recipes.config.augmenting import Wanted
from langevin.recipes.restoring import hidden_by
from langevin.recipes.sampling import of_pictures, of_weights
from langevin.tasks.augment import DIRECTIONS, Augmented, Checked, augment, labels_of, may_check, stripes

MASKS = ("stripes", *DIRECTIONS)
CAPTIONS = "captions.jsonl"
HEAD = ("file", "source", "mask", "draw", "label", "slip", "moved", "repainted", "passed")


def read(
    path: Path,
    shape: tuple[int, ...],
    label: Path | None = None,
    count: int | None = None,
    *,
    split: str = "train",
    held_out: int | None = None,
) -> Any:
    """Pictures of a run's shape: a folder of them (classes by subfolder, captions.jsonl if it is there), of idx files, or a .npy.

    Args:
        label: class numbers (N,) for a .npy, in another.
        count: the first so many of a .npy or of idx files.
        split: of idx files, "train" or "test", whose last `held_out` are the test split; all of them without that.

    Raises:
        ValueError: for what is none of these, or has another size.
    """
    if label is not None and path.suffix != ".npy":
        raise ValueError(f"label is {label}, and {path} brings its own labels if any; give it with a .npy.")
    if path.suffix == ".npy":
        found: Any = Arrays(path, None if label is None else {"label": label})
    elif any(path.glob("*images*idx3*")):
        found = mnist(path, "all", 1) if held_out is None else mnist(path, split, held_out)
    else:
        texts = CAPTIONS if (path / CAPTIONS).exists() else None
        found = Pictures(path, shape[-1], shape[0], split="all", captions=texts)
    if tuple(found.shape) != tuple(shape):
        raise ValueError(
            f"{path} has samples of shape {tuple(found.shape)}, and the run draws {tuple(shape)}; resize them first."
        )
    if count is None:
        return found
    if not isinstance(found, Arrays) or not 1 <= count <= len(found):
        raise ValueError(
            f"count is {count}; it takes the first pictures of arrays or idx files, of which {path} has {len(found)}."
        )
    return found if count == len(found) else found.split(count)[0]


def masks_of(wanted: Wanted, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """By name, such as "vertical-4", or "vertical-kept-4" where the first stripe is kept; that of a file is the file's."""
    if wanted.mask not in MASKS:
        file = Path(wanted.mask)
        if file.suffix.lower() not in SUFFIXES:
            raise ValueError(f"mask is {wanted.mask!r}; there are {', '.join(MASKS)}, and a picture that is white where "
                             "pictures are painted anew.")  # fmt: skip
        for name in ("thickness", "first"):
            if (value := getattr(wanted, name)) != getattr(Wanted, name):
                raise ValueError(f"{name} is {value}, of stripes, and mask is the picture {file}; leave it out.")
        return {file.stem.replace("-", "_"): ~hidden_by(file, shape)[0]}
    if not wanted.thickness or not wanted.first:
        raise ValueError(f"thickness is {wanted.thickness} and first {wanted.first}; give at least one of each.")
    ways = DIRECTIONS if wanted.mask == "stripes" else (wanted.mask,)
    size = (shape[1], shape[2])
    return {
        f"{way}-{wide}" if first == "new" else f"{way}-{first}-{wide}": stripes(size, wide, way, first)
        for wide, first, way in product(wanted.thickness, wanted.first, ways)
    }


def augmentation(run: Run, source: Any, out: Path, wanted: Wanted, test: Any = None) -> dict[str, Any]:
    """Augment `source` into a folder: pictures/ (which `langevin train images` reads), augmented.csv, report.json, page.png.

    Args:
        test: labelled pictures, for what a small classifier gains by the new ones.

    Returns:
        The report.

    Raises:
        ValueError: for a run that does not draw pictures from noise alone, or leaps to the end of its flow, and as
            `tasks.augment`.
    """
    shape = of_pictures(run, "augment")
    masks = masks_of(wanted, shape)
    plan = repaint(wanted.steps, wanted.jump, wanted.resample)
    told, labels = wanted.told and run.facts.classes is not None, labels_of(source)
    if not wanted.told and run.facts.classes is None:
        raise ValueError("told is False, and this run knows no classes that it could be told; leave --no-told out.")
    # what is asked of the new pictures is refused now rather than when they are painted
    may_check(wanted.limit, wanted.judge, labels)
    if test is not None:
        _may_test(labels, test)
    if told and labels is not None and int(labels.max()) >= (run.facts.classes or 0):
        last, known = int(labels.max()), run.facts.classes
        raise ValueError(f"there is a label {last}, and the run knows {known} classes; say --no-told, and it is told none.")
    try:
        made = augment(run.denoiser, source, masks, out / "cache", plan=plan, draws=wanted.draws, rounds=wanted.rounds,
                       seed=wanted.seed, batch=wanted.batch, told=told)  # fmt: skip
    except Stale as stale:
        other = "sources" if stale.field == "source" else "weights, masks, draws, rounds, levels, batch or seed"
        raise ValueError(f"{out / 'cache'} is stale: it holds pictures of other {other}; ask for the same, or choose another out "
                         "(--out).") from None  # fmt: skip
    checked = made.check(wanted.limit, _judge(made, out) if wanted.judge else None)
    write_pictures(made, checked, out, wanted.originals)
    pictures.save_images(page(made), out / "page.png", columns=1 + len(masks) * (1 + wanted.draws))
    said: dict[str, Any] = {
        "weights": of_weights(run), "plan": plan.name, "sources": len(source), "drawn": checked.passed.numel(),
        "passed": int(checked.passed.sum()), "largest change of a kept pixel": float(checked.slip.max()),
        "rmse by thickness": by_thickness(made, checked), **distances(run, made, checked),
    }  # fmt: skip
    if test is not None:
        said["accuracy"] = gain(made, checked, test)
    write(out / "report.json", json.dumps(said, indent=1) + "\n")
    return said


def _judge(made: Augmented, out: Path) -> Callable[[Tensor], Tensor]:
    """A classifier of the sources, kept in `out`."""
    assert made.labels is not None  # as `may_check` has seen
    x = leaves(made.source.batch(torch.arange(len(made))).x)[""]
    return kept_classifier(x, made.labels, out, made.source.digest()).label  # pyright: ignore[reportAttributeAccessIssue]


def by_thickness(made: Augmented, checked: Checked) -> dict[str, float]:
    """RMSE over what was painted anew, of all variants of one thickness."""
    squares: dict[str, list[Tensor]] = defaultdict(list)
    for k, (name, _) in enumerate(made.variants):
        squares[name.rpartition("-")[2]].append(checked.repainted[:, k].square())
    return {wide: round(float(torch.stack(s).mean().sqrt()), 4) for wide, s in squares.items()}


def distances(run: Run, made: Augmented, checked: Checked) -> dict[str, Any]:
    """Frechet distances to held-out pictures of the run, on principal components of its training pictures: of the sources, and of
    as many new ones (each variant by itself, averaged)."""
    real, train = (leaves(s.batch(torch.arange(len(s))).x)[""] for s in (run.test, run.train))
    net = PCA(train)
    held, every = extract(net, real), torch.arange(len(made))
    new = made.new(every)
    kept = [k for k in range(new.shape[1]) if int(checked.passed[:, k].sum()) > 1]
    if len(made) < 2 or not kept:
        return {}
    found = [frechet(extract(net, new[checked.passed[:, k], k]), held) for k in kept]
    ours = frechet(extract(net, leaves(made.source.batch(every).x)[""]), held)
    return {"features": net.name, "fd of the sources": round(ours, 4), "fd of the new": round(sum(found) / len(found), 4)}


def gain(made: Augmented, checked: Checked, test: Any, steps: int = 800, seed: int = 0) -> dict[str, float]:
    """Accuracy of the same small classifier on `test`, trained on the sources alone and with what passed.

    Raises:
        ValueError: where there are no labels.
    """
    _may_test(made.labels, test)
    held = test.batch(torch.arange(len(test)))
    assert made.labels is not None and held.cond is not None
    x, labels = leaves(made.source.batch(torch.arange(len(made))).x)[""], made.labels
    new, rows, _ = made.passing(checked)
    classes = int(max(labels.max(), held.cond["label"].max())) + 1

    def right(x: Tensor, y: Tensor) -> float:
        with torch.enable_grad():
            net = train_classifier(x, y, classes, steps, seed=seed, change=None)
        return round(float((net.label(leaves(held.x)[""]) == held.cond["label"]).double().mean()), 4)  # pyright: ignore

    return {"sources": right(x, labels), "with the new": right(torch.cat([x, new]), torch.cat([labels, labels[rows]]))}


def _may_test(labels: Tensor | None, test: Any) -> None:
    if labels is None or labels_of(test) is None:
        raise ValueError("a test set is given, and there are no labels to learn or to test; leave it out.")


def page(made: Augmented, rows: int = 8) -> Tensor:
    """Pictures row by row, from all over the sources: before, then for each mask what is kept (the rest grey) and what was made
    of it."""
    index = torch.linspace(0, len(made) - 1, min(rows, len(made))).long()
    x, new = leaves(made.source.batch(index).x)[""], made.new(index)
    columns = [x]
    for name, mask in made.masks.items():
        columns.append(torch.where(mask, x, 0.0))
        columns += [new[:, k] for k, (of, _) in enumerate(made.variants) if of == name]
    return torch.stack(columns, 1).flatten(0, 1)


def write_pictures(made: Augmented, checked: Checked, out: Path, originals: bool = True) -> None:
    """pictures/, by class where there are labels and with captions.jsonl where there are texts, and augmented.csv. Each file is
    there whole or not at all, and the same in every call."""
    labels, texts = made.labels, getattr(made.source, "captions", None)
    names = _classes(made)
    home, captions, table = out / "pictures", [], io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(HEAD)
    for i in shown(range(len(made)), len(made), "writing pictures"):
        at = torch.tensor([i])
        into = home if labels is None or names is None else home / names[int(labels[i])]
        into.mkdir(parents=True, exist_ok=True)
        for k, (picture, (name, draw)) in enumerate(zip(made.new(at)[0], made.variants, strict=True)):
            good = bool(checked.passed[i, k])
            file = into / f"{i:06d}-{name}-{draw}.png"
            if good:
                _save(picture, file)
                captions.append((file, i))
            else:
                file.unlink(missing_ok=True)  # an earlier call may have had another limit
            where = file.relative_to(home) if good else ""
            numbers = [f"{float(v[i, k]):.6f}" for v in (checked.slip, checked.moved, checked.repainted)]
            lines.writerow([where, i, name, draw, "" if labels is None else int(labels[i]), *numbers, int(good)])
        if originals:
            _save(leaves(made.source.batch(at).x)[""][0], into / f"{i:06d}.png")
            captions.append((into / f"{i:06d}.png", i))
        else:
            (into / f"{i:06d}.png").unlink(missing_ok=True)
    write(out / "augmented.csv", table.getvalue())
    if texts is not None:
        said = [json.dumps({"file": str(f.relative_to(home)), "text": texts[i]}) for f, i in captions]
        write(home / CAPTIONS, "\n".join(said) + "\n")


def _classes(made: Augmented) -> Sequence[str] | None:
    if made.labels is None:
        return None
    named = getattr(made.source, "classes", None)
    if named is not None:
        return named
    last = int(made.labels.max())
    return [f"{k:0{len(str(last))}d}" for k in range(last + 1)]


def _save(picture: Tensor, file: Path) -> None:
    values, made = pictures.to_uint8(picture[None])[0], io.BytesIO()
    Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values).save(made, format="PNG")
    if not file.exists() or file.read_bytes() != made.getvalue():
        write(file, made.getvalue())
