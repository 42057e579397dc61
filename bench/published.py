"""What published pipelines are sampled by: each pipeline of the reference set is loaded and run as its configuration says.

    python bench/published.py --references DIR --out bench/results/published.csv

DIR is made by the generator of reference checkpoints (LANGEVIN_REFERENCES of the tests). Their schedulers are configured as the
published ones are, their networks are small and random; how far pictures are from the peer's is what `make parity` holds.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from rows import parsed, write

import langevin as lv

STEPS = 4


def evaluations(model, steps: int) -> int:
    """Of the network, by the plan alone."""
    tokens = (model.defaults.size[0] // 16) * (model.defaults.size[1] // 16)
    plan = model.plan(steps, tokens=tokens).on(model.denoiser.process.schedule)
    return sum(getattr(row, "level", 0.0) is not None for row in plan.rows)


def one(folder: Path) -> dict[str, object]:
    index = json.loads((folder / "model_index.json").read_text())
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    model = lv.load(folder)
    calls = [0]
    model.denoiser.net.register_forward_hook(lambda *a: calls.__setitem__(0, calls[0] + 1))
    asked: dict[str, object] = {"steps": STEPS}
    each = max(model.defaults.multiple, 1)
    side = max(each, 32 // each * each)
    if model.conditioner is not None:
        asked |= {"prompt": "a red cat"} | ({} if model.takes else {"size": (side, side)})
    if model.defaults.classes is not None:
        asked["label"] = 1
    if model.takes:
        asked["image"] = torch.linspace(-1, 1, 3 * side * side).reshape(3, side, side)
    if model.takes == "inpaint":
        asked["mask"] = torch.eye(side)
    if model.controls:
        asked["control"] = torch.zeros(3, side, side)
    if model.conditioner is None and model.defaults.classes is None:
        asked.pop("size", None)
    began = time.perf_counter()
    result = model.run(**asked)
    return {
        "pipeline": index["_class_name"], "checkpoint": folder.parent.name, "scheduler": scheduler["_class_name"],
        "prediction": model.denoiser.predictions[""].name, "plan": result.info[0]["sampler"],
        "default_steps": model.defaults.steps, "default_evaluations": evaluations(model, model.defaults.steps),
        "default_guidance": model.defaults.guidance, "told": model.defaults.told,
        "calls_of_4_steps": calls[0] or "not counted", "seconds": round(time.perf_counter() - began, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--references", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("bench/results/published.csv"))
    asked = parsed(parser)
    from langevin.zoo.pipelines import KINDS

    rows = []
    for file in sorted(asked.references.rglob("model_index.json")):
        if json.loads(file.read_text())["_class_name"] in KINDS:
            rows.append(one(file.parent))
            print(*rows[-1].values(), flush=True)
    write(asked.out, list(rows[0]), rows)


if __name__ == "__main__":
    main()
