"""langevin finetune: published models."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from langevin.cli.asking import Refusal, parse, taken
from langevin.cli.training import STOPPED
from langevin.recipes.config.tuning import FEW_STEPS, METHODS, Tuning
from langevin.spec import nearest


@dataclass(frozen=True, kw_only=True)
class _Finetune:
    tuning: Annotated[Tuning, tyro.conf.arg(name="")]
    out: Path = Path("runs/finetuned")
    """Run directory."""
    resume: bool = False
    """Continue the run in that directory, if there is one."""
    other_data: bool = False
    """Continue it though the pictures are other than it was begun with."""
    device: str = "auto"
    """cpu, cuda, or auto."""


USAGE = f"""\
usage: langevin finetune PATH PICTURES --method {"|".join(METHODS)} [--out DIR] [--resume] [--field value ...]

Teach a published text-to-image model (a folder, an id, or a single file with --beside FOLDER) a folder of pictures.

  full               all of the denoiser, on captions:   --captions txt, or one --prompt for all
  lora               adapters beside it:                  --captions txt, or --prompt
  dreambooth         a thing, its kind preserved:         --prompt "a photo of sks dog" --prior "a photo of a dog"; --rank 8
                                                          by adapters
  lcm                adapters for a few steps (LCM-LoRA): --captions txt, or --prompt; langevin distill --to lcm is this
  consistency        the same by steps of order 2 (Heun's), each of which asks the model twice
  textual-inversion  a new word and nothing else:         --word "<toy>" --begin toy

langevin finetune PATH PICTURES --method METHOD --help shows every field.
"""


def finetune(args: Sequence[str]) -> None:
    """Fine-tune a published model, and say how to use what comes out."""
    if len(args) < 2 or args[0].startswith("-") or args[1].startswith("-"):
        print(USAGE, end="")
        if args and args[0] not in ("-h", "--help"):
            raise Refusal("the model or the pictures are missing; say langevin finetune PATH PICTURES --method METHOD.")
        return
    path, data, *rest = args
    method, rest = taken("--method", rest)
    if method not in METHODS:
        near = "" if method is None else f" did you mean {nearest(method, METHODS)!r}?"
        raise Refusal(f"method is {method!r};{near} There are {', '.join(METHODS)}.")
    usual = Tuning.model_construct(**{**METHODS[method], "method": method, "origin": path, "data": data})
    asked = parse(_Finetune, rest, f"langevin finetune {path} {data} --method {method}", _Finetune(tuning=usual))
    from langevin.recipes.tuning import tune

    cfg = Tuning.model_validate(asked.tuning.model_dump())
    made = tune(cfg, asked.out, asked.resume, asked.device, other_data=asked.other_data)
    if made is None:
        again = "" if "--resume" in args else " --resume"
        print(f"stopped; continue with: {shlex.join(['langevin', 'finetune', *args])}{again}", file=sys.stderr)
        raise SystemExit(STOPPED)
    use = ["langevin", "generate", str(made) if made.is_dir() else path, cfg.prompt or ""]
    if not made.is_dir():
        use[3] = cfg.word if cfg.method == "textual-inversion" else use[3]
        for flag in ("beside", "variant"):
            use += [f"--{flag}", str(value)] if (value := getattr(cfg, flag)) is not None else []
        use += ["--word" if cfg.method == "textual-inversion" else "--lora", str(made)]
        use += ["--plan", "lcm:4", "--guidance", "1"] if cfg.method in FEW_STEPS else []
    print(f"{made}: use it as {shlex.join(use)}")
