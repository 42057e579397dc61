"""What a run leaves to look at, and its numbers."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from langevin import pictures
from langevin.core.denoiser import Denoiser
from langevin.data.progress import watched
from langevin.devices import device_of
from langevin.evaluate import Evaluation
from langevin.files import best_effort, refuse_used, write
from langevin.recipes.build import Run
from langevin.recipes.drawing import draw
from langevin.recipes.evaluation import evaluate


def write_samples(run: Run, path: Path, count: int, **options: Any) -> Path:
    """Samples in a file, whose ending says how; options are those of `draw`.

    Raises:
        ValueError: for an ending that is not for this kind of data, or a folder that holds something: the pictures of another
            call would be taken for those of this one.
    """
    if path.suffix not in run.domain.formats:
        *rest, last = (ending or "folder" for ending in run.domain.formats)
        said = f"{', '.join(rest)} or {last}" if rest else last
        raise ValueError(f"out is {path}; write a {said}.")
    if not path.suffix:
        refuse_used(path)
    if path.suffix == ".gif":
        made = run.domain.animation(run, path, count=count, **options)
        assert made is not None
        return made
    return run.domain.write(run, draw(run, count, **options), path, **options)


def picture_of_levels(out: Path) -> Path | None:
    """levels.png: loss by level against steps, from the log of the run; None for a log that does not tell levels."""
    log = out / "log.jsonl"
    told = log.exists() and '"levels/' in log.read_text()
    return pictures.plot_levels(log, out / "levels.png") if told else None


def preview(run: Run, out: Path) -> Callable[[Denoiser, int], None]:
    """The trainer's hook: a grid of the averaged model's samples, always from the same noise."""

    def show(model: Denoiser, step: int) -> None:
        now = run.holding(model)
        run.domain.overview(now, out / "previews" / f"step-{step:08d}", rows=4)
        with suppress(ImportError):  # said at the end
            picture_of_levels(out)

    return show


def pages(run: Run, out: Path, say: Callable[[str], None] = print, *, device: str = "cpu") -> None:
    """Samples and plots of a trained run, each path said as it is written; what cannot be written is said on stderr."""
    run.denoiser.to(device_of(device))
    for make in _pages(run, out):
        try:
            with best_effort(out):  # a full disk takes the pages, not the numbers
                with watched():
                    path = make()
                if path is not None:
                    say(str(path))
        except ImportError as error:  # plots are an extra; the numbers are not
            say(str(error))


def report(run: Run, out: Path, count: int = 1000, say: Callable[[str], None] = print, *, device: str = "cpu") -> Evaluation:
    """Samples, plots and metrics.json of a trained run, each path said as it is written. All is computed on `device`.

    What cannot be written is said on stderr; the numbers are returned.
    """
    pages(run, out, say, device=device)
    say(f"measuring {count} samples of each kind, which takes as long as drawing them; --samples N takes fewer, and 0 none")
    with watched():
        result = evaluate(run, count=count, small=True, folder=out, device=device)
    with best_effort(out / "metrics.json"):
        say(str(write(out / "metrics.json", result.model_dump_json(indent=1))))
    return result


def _pages(run: Run, out: Path) -> Iterator[Callable[[], Path | None]]:
    yield from run.domain.pages(run, out)
    yield lambda: pictures.plot_loss(out / "log.jsonl", out / "loss.png")
    yield lambda: picture_of_levels(out)
