"""The commands there are. Answers `--help` without torch; everything heavy is imported by the command that needs it."""

from collections.abc import Callable, Sequence

from pydantic import ValidationError

from langevin.cli.asking import Refusal, sentence
from langevin.cli.augmenting import augment
from langevin.cli.data import data
from langevin.cli.designing import classify, design, regress
from langevin.cli.distilling import distill
from langevin.cli.editing import edit
from langevin.cli.finetuning import finetune
from langevin.cli.generating import generate
from langevin.cli.interpolating import interpolate
from langevin.cli.likelihoods import likelihood
from langevin.cli.plans import plan, tune
from langevin.cli.published import convert, inspect
from langevin.cli.restoring import restore
from langevin.cli.runs import evaluate, recipes, sample
from langevin.cli.training import train
from langevin.cli.upscaling import upscale
from langevin.cli.weights import ema, lora, publish
from langevin.cli.writing import write
from langevin.spec import nearest

HELP = """\
langevin: diffusion models of every kind.

  langevin recipes                         what can be trained out of the box
  langevin train RECIPE [--out DIR]        train, evaluate, leave pictures and metrics; --resume continues
  langevin data emoji|drawings [--out DIR] make a set of captioned pictures: of a font, or of molecules
  langevin sample RUN --out FILE.png       draw samples from a run
  langevin write RUN [--prefix|--infill T] go on from a beginning, or fill blanks, in any order
  langevin generate PATH "PROMPT" --out P  draw pictures with a published model
  langevin edit PATH PICTURE "FROM" "TO"   a picture as it would be of another class or prompt, by a run or a published model
  langevin finetune PATH PICTURES --method lora|full|dreambooth|lcm|textual-inversion
                                           teach a published model pictures, a thing, few steps, or a word
  langevin restore RUN --task T --out P    inpaint, super-resolution, deblur, colourise, sense, denoise: samples of the posterior
  langevin upscale RUN [RUN..] IN --out P  larger pictures, by one upscaler or several in turn
  langevin interpolate RUN --out P         ways between held-out pictures, through their codes
  langevin design RUN --out DIR            molecules by design: generate, score, filter, guide, and again
  langevin regress RUN --property P --out DIR
                                           learn to read a property from noisy graphs; langevin sample --steer DIR uses it
  langevin classify RUN --attributes A --out DIR
                                           learn to tell attributes from noisy sentences; langevin write --classifier DIR uses it
  langevin augment RUN DATA --out DIR      labelled pictures painted anew in part, for training: OCSAug
  langevin evaluate RUN [--small] [--json] judge a run against held-out real data, or a folder --against another
  langevin likelihood RUN [DATA]           how likely data is under a run: nats or bits per dimension, with an error bar
  langevin inspect PATH                    what a run, checkpoint or published model is, or how a picture was made
  langevin convert OLD NEW                 make a safetensors file of a .ckpt, .pt, .pth or .bin, or write a published model in
                                           another form: folder or single file, adapters merged, half precision
  langevin plan show NAME:STEPS            the table of a sampler; --plot draws it
  langevin plan compare ONE OTHER          where two samplers first differ
  langevin plan levels RUN                 where a sampler asks a run's network, beside where that was trained
  langevin tune RUN --steps N              learn a sampler of N evaluations for this model
  langevin distill RUN --to KIND           train a faster model that learns from a run, and compare the two
  langevin ema RUN --sigma-rel WIDTH       make another average of its weights, after training
  langevin lora RUN --out FILE             write the adapters that a run has trained
  langevin publish RUN --out DIR           write a text-to-image run as diffusers reads it

Each command has --help. A run directory is self-contained: copy it anywhere.
"""

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train, "data": data, "sample": sample, "generate": generate, "edit": edit, "evaluate": evaluate, "recipes": recipes,
    "inspect": inspect, "convert": convert, "plan": plan, "tune": tune, "distill": distill, "finetune": finetune, "ema": ema,
    "lora": lora, "publish": publish, "restore": restore, "likelihood": likelihood, "augment": augment,
    "write": write, "upscale": upscale, "interpolate": interpolate, "design": design,
    "regress": regress, "classify": classify,
}  # fmt: skip


def answer(args: Sequence[str]) -> None:
    """Do what a command line asks for.

    Raises:
        Refusal: in one sentence, for what is not understood or not to be had; of other errors those that tell the same in theirs.
    """
    if not args or args[0] in ("-h", "--help"):
        print(HELP, end="")
        return
    if args[0] == "--version":
        from langevin import __version__

        print(__version__)
        return
    if args[0] not in COMMANDS:
        raise Refusal(f"there is no command {args[0]!r}; did you mean {nearest(args[0], COMMANDS)!r}?")
    try:
        COMMANDS[args[0]](args[1:])
    except ValidationError as error:
        raise Refusal(sentence(error)) from None
