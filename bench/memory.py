"""What each step of the ladder of memory takes beside what its plan promised: a text-to-image model of real size.

    python bench/memory.py                     # the shape of Stable Diffusion 1.5, 512 x 512, a step on each rung
    python bench/memory.py --tiny              # the same in little, to see that it runs; kept only where --out says
    python bench/memory.py --gpu               # device memory instead, with layers that visit the device in turn
    python bench/memory.py --rungs 1 2 --steps 2

The model is made here, part by part, with random weights in the layout in which such models are published; no peer is needed.
Every rung is loaded and run in a process of its own. `peak` is the highest resident set above that of the process with its
imports and a tiny model drawn before: it has the pages of the weights' files in it, which the system takes back when it needs
them. `own` is the most memory of its own that the process held (RssAnon, looked at each hundredth of a second); on a GPU `peak`
is what torch's allocator held at most. `promised` is the plan's. A rung that cannot be run here says why. Rows are written as
they are known.
"""

import argparse
import dataclasses
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from contenders import resident
from networks import NETWORKS
from rows import append, parsed

RESULTS = Path(__file__).parent / "results"
FIELDS = ["model", "size", "steps", "device", "rung", "name", "promised", "peak", "own", "over", "load_s", "run_s", "said"]
TEXT = {
    "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": 49408, "hidden_size": 768,
    "eos_token_id": 2, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "max_position_embeddings": 77, "hidden_act": "quick_gelu",
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "unet": {"_class_name": NETWORKS["sd15"][0], **NETWORKS["sd15"][1]},
    "vae": {"_class_name": NETWORKS["decoder"][0], "scaling_factor": 0.18215, **NETWORKS["decoder"][1]},
    "text_encoder": TEXT,
}
TINY: dict[str, dict[str, Any]] = {
    "unet": {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 32, "sample_size": 8},
    "vae": {"block_out_channels": (32, 32, 32, 32), "sample_size": 64},
    "text_encoder": {
        "vocab_size": 600,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
}


def make(folder: Path, tiny: bool) -> None:
    """A whole model as it is published, with random weights."""
    from langevin.tensors import save
    from langevin.zoo.family import published, unset
    from langevin.zoo.registry import component

    for name, whole in CONFIGS.items():
        config = {**whole, **(TINY[name] if tiny else {})}
        part = component(config.get("_class_name") or config["architectures"][0])
        with unset():
            net = part.build(config)
        g = torch.Generator().manual_seed(0)
        for value in net.state_dict(keep_vars=True).values():
            if value.is_floating_point():
                wide = value.ndim > 1
                value.data = torch.randn(value.shape, generator=g) * (0.5 / value[0].numel() ** 0.5 if wide else 0.1) + (not wide)
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config))
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        save(folder / name / f"{stem}.safetensors", {n: v.clone() for n, v in published(net, part.keys(config, net)).items()})
    from langevin.text.pieces import letters

    words = [*letters(), *(letter + "</w>" for letter in letters()), "<|startoftext|>", "<|endoftext|>"]
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer" / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}')
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
                    "num_train_timesteps": 1000, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1})
    )  # fmt: skip
    classes = {"unet": CONFIGS["unet"]["_class_name"], "vae": CONFIGS["vae"]["_class_name"], "scheduler": "DDIMScheduler"}
    index: dict[str, Any] = {name: ["diffusers", kind] for name, kind in classes.items()}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **index}))


def own() -> int:
    """Bytes of this process that no file backs."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


class Watch(threading.Thread):
    """The most memory of its own that the process holds, looked at again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.over = own(), threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.01):
            self.most = max(self.most, own())


def planned(folder: str, rung: int, size: int, device: str) -> Any:
    """The plan that stops at one rung; None where that is no help."""
    from langevin.zoo.load import ladder

    plan = ladder(folder, 10**15, size=(size, size), device=device)
    need = plan.needs[rung]
    return None if need is None else dataclasses.replace(plan, budget=need, taken=rung)


def worker(folder: str, small: str, rung: int, size: int, steps: int, device: str) -> dict[str, Any]:
    """Load the model on one rung and draw a picture; a tiny one goes before, which brings the imports and the libraries."""
    import langevin as lv

    plan = planned(folder, rung, size, device)
    if plan is None:
        return {"said": "no help on this device"}
    promised = plan.budget
    lv.load(small, budget=planned(small, rung, 64, device), device=device).run("a", steps=1, size=(64, 64))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the highest resident set begins anew
    before, mine, watch = resident(), own(), Watch()
    watch.start()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    model = lv.load(folder, budget=plan, device=device)
    loaded = time.perf_counter()
    picture = model.run("a red bicycle", steps=steps, seed=0, size=(size, size)).tensor
    ended = time.perf_counter()
    watch.over.set()
    watch.join()
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident() - before
    finite = bool(picture.isfinite().all())
    return {
        "promised": promised,
        "peak": peak,
        "own": max(watch.most, own()) - mine,
        "over": round(peak / promised, 3),
        "load_s": round(loaded - began, 1),
        "run_s": round(ended - loaded, 1),
        "said": "" if finite else "not finite",
    }


def main() -> None:
    from langevin.zoo.budget import STEPS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a model of a megabyte")
    parser.add_argument("--size", type=int, help="side of the picture; 512, tiny 64")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument(
        "--rungs", type=int, nargs="+", default=list(range(1, len(STEPS) + 1)), help="as the ladder counts them, from 1"
    )
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep the model there, and take it from there if it is there")
    parser.add_argument("--out", type=Path, help="bench/results/memory.csv by default, nothing for --tiny")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parsed(parser)
    if args.worker:
        print(json.dumps(worker(*json.loads(args.worker))), flush=True)
        return
    size, device = args.size or (64 if args.tiny else 512), "cuda" if args.gpu else "cpu"
    out = args.out or (None if args.tiny else RESULTS / "memory.csv")
    if out is not None:
        out.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder, small = args.folder or Path(scratch) / "model", Path(scratch) / "small"
        make(small, True)
        if not folder.exists():
            print(f"making {folder}", flush=True)
            make(folder, args.tiny)
        for rung in args.rungs:
            told = json.dumps([str(folder), str(small), rung - 1, size, args.steps, device])
            done = subprocess.run([sys.executable, __file__, "--worker", told], capture_output=True, text=True, check=False)
            lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
            said = (
                json.loads(lines[-1])
                if lines
                else {"said": (done.stderr.strip().splitlines() or ["ended without a word"])[-1][:200]}
            )
            row = {"model": "tiny" if args.tiny else "sd15", "size": size, "steps": args.steps, "device": device, "rung": rung,
                   "name": STEPS[rung - 1], **said}  # fmt: skip
            numbers = ", ".join(f"{n} {row[n] / 1e9:.3f} GB" for n in ("promised", "peak", "own") if n in row)
            print(f"{rung}. {row['name']:16} {numbers} {row.get('over', '')} {row['said']}", flush=True)
            if out is not None:
                append(out, FIELDS, [row])


if __name__ == "__main__":
    main()
