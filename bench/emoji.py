"""A text-to-image model from nothing: what it draws by caption, and the same picture by diffusers.

    langevin data emoji && langevin train emoji-autoencoder && langevin train emoji
    python bench/emoji.py runs/emoji --out bench/results/emoji.csv --page docs/images/emoji.png

"kin": of pictures drawn by a caption, how many have a real emoji of the caption's group (Unicode's nine) or subgroup (its
ninety-eight) as their nearest in the training set, by 20 principal components of its pixels; beside it the same for the captions
in another order, which is chance. For captions that training saw and for those held out, 4 pictures each. "own": how many are
nearest to the very emoji of the caption, which only training captions can be.

"diffusers": the run is published, a StableDiffusionPipeline reads the folder, and both draw the same captions from the same start
by the published scheduler; the largest difference of a pixel in [0, 1].
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rows import parsed, replace

import langevin as lv
from langevin import pictures
from langevin.evaluate import PCA
from langevin.evaluate.neighbours import nearest
from langevin.recipes.drawing import draw
from langevin.recipes.latents import decoded
from langevin.recipes.publishing import publish

FIELDS = ("measure", "captions", "value", "error", "note")
SHOWN = (
    "red heart", "grinning face", "pizza", "rocket", "fox", "rose", "rainbow", "flag: Japan", "cat face", "sun", "frog", "banana",
    "airplane", "tiger face", "soccer ball", "tangerine", "penguin", "gem stone", "open book",
)  # fmt: skip
EACH = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="rows are added to it, or replaced")
    parser.add_argument("--page", type=Path, required=True)
    parser.add_argument("--captions", type=int, default=100, help="of training captions, for kin")
    asked = parsed(parser)
    run: Any = lv.open_run(asked.run)
    run.denoiser.eval()
    listed = [json.loads(line) for line in (Path(run.recipe.data.folder) / "captions.jsonl").read_text().splitlines()]
    filed = {one["text"]: (one["group"], one["subgroup"]) for one in listed}
    seen, held = list(run.train.captions), list(run.test.captions)
    # latents are kept and pictures are not, so they are read again
    real = torch.cat([run.train.source.batch(i).x for i in torch.arange(len(seen)).split(256)])
    features = PCA(real)
    known = features.features(real).float()
    rows: list[dict[str, Any]] = []

    def row(measure: str, of: str, value: float, error: float | str = "", note: str = "") -> None:
        rows.append({"measure": measure, "captions": of, "value": f"{value:.4g}", "error": error, "note": note})
        print(rows[-1], flush=True)

    g = torch.Generator().manual_seed(0)
    some = [seen[i] for i in torch.randperm(len(seen), generator=g)[: asked.captions].tolist()]
    for of, texts in (("training", some), ("held out", held)):
        begun = time.process_time()
        x = draw(run, EACH * len(texts), prompts=texts)  # captions in turn
        row("seconds of a picture", of, (time.process_time() - begun) / len(x), note=run.recipe.sample.plan)
        place = nearest(features.features(x).float(), known)[1].tolist()
        other = torch.randperm(len(texts), generator=g).tolist()
        for level, name in enumerate(("group", "subgroup")):
            found = [filed[seen[p]][level] for p in place]
            asked_of = [filed[texts[k % len(texts)]][level] for k in range(len(x))]
            chance = [filed[texts[other[k % len(texts)]]][level] for k in range(len(x))]
            for what, wanted in ((f"kin, {name}", asked_of), (f"kin, {name}, by chance", chance)):
                right = torch.tensor([a == b for a, b in zip(found, wanted, strict=True)]).double()
                error = right.reshape(EACH, -1).mean(0).std() / len(texts) ** 0.5  # pictures of a caption are alike
                row(what, of, float(right.mean()), f"{float(error):.3f}", f"{len(texts)} captions, {EACH} pictures each")
        if of == "training":
            own = [seen[p] == texts[k % len(texts)] for k, p in enumerate(place)]
            row("own", of, sum(own) / len(own))
    shown = [text for text in SHOWN if text in seen] + held[:20]
    pictures.save_captioned(draw(run, len(shown), prompts=shown, seed=1), shown, asked.page, columns=10)
    with tempfile.TemporaryDirectory() as folder:
        same(run, shown[:8], publish(run, Path(folder) / "emoji"), row)
    replace(asked.out, FIELDS, rows, ("measure", "captions"))


@torch.no_grad()
def same(run: Any, texts: list[str], folder: Path, row: Any) -> None:
    from diffusers import StableDiffusionPipeline

    from langevin.plans.profiles import diffusers as profile

    start = torch.randn(len(texts), *run.facts.shape, generator=torch.Generator().manual_seed(0))
    theirs = StableDiffusionPipeline.from_pretrained(str(folder))
    drawn = theirs(texts, num_inference_steps=20, guidance_scale=3.0, latents=start, output_type="pt").images
    cond = {"ids": run.facts.vocabulary.ids(texts)}
    plan = profile(20, "ddim", "leading", offset=1)
    mine = decoded(run, lv.sample(run.denoiser, plan, len(texts), start=start, cond=cond, guidance=lv.CFG(3.0)))
    gap = (mine.clamp(-1, 1) / 2 + 0.5 - drawn).abs()
    row("diffusers, largest difference", "training", float(gap.max()), note=f"{len(texts)} pictures, DDIM in 20 steps, w 3")


if __name__ == "__main__":
    main()
