"""All that is trained for the bars of bench/bars.py, from nothing, part after part: hours of two cores.

    python bench/everything.py --data ../shared/data                 # in the folder runs/everything
    python bench/everything.py --data ../shared/data --only transfer tabular
    python bench/everything.py --list

Tables and pictures go to WORK/results; what is committed stays as it is, and is replaced by copying from there. A part that was
done is not done again, one that was stopped continues (its runs are resumed, its rows kept), and one that fails does not stop
the others: its output is in WORK/logs. Peers are left out, and the benches that compare say in their first lines where those are
put; but for "inverse", whose bars stand beside azula: pip install --no-deps azula first, without which that part fails. What a
bar bounds the time of on two cores is trained by two processes, before the bench that judges it.
DATA holds MNIST's idx files, qm9.csv, tinyshakespeare.txt, graphs/*.json and e2e_*.txt.
"""

import argparse
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

BENCH = Path(__file__).parent


@dataclass(frozen=True)
class Part:
    """Commands, one after the other, and what they cost.

    A command that begins with the name of a script of this folder is run by Python, any other is one of `langevin`'s; DATA, RUNS
    and RESULTS stand for folders.
    """

    minutes: int
    """Of one core, reckoned from what recipes and benches say of themselves, not measured as a whole."""
    commands: tuple[str, ...]


def trained(recipe: str, more: str = "", name: str = "") -> str:
    """The training of a recipe that is told nothing else, unjudged: the bench judges."""
    return f"train {recipe} {more} --out RUNS/{name or recipe} --samples 0 --resume"


def by_two(command: str, out: str) -> str:
    """The training of a student by two processes, where a bench finds it done; with the settings that the bench has for it."""
    return f"{command} --processes 2 --samples 0 --resume --out RUNS/{out}"


MATCHED = "--train.steps 2400 --train.ema 0.995"
PARTS = {
    "tabular": Part(5, ("tabular.py --out RESULTS/tabular.csv",)),
    "paths": Part(3, ("paths.py --out RESULTS/paths.csv",)),
    "transfer": Part(8, ("transfer.py --runs RUNS/transfer --out RESULTS/transfer.json",)),
    "moons": Part(54, ("few_steps.py moons --results RESULTS",)),
    "digits": Part(
        90,
        (
            trained("digits"),
            by_two("train digits-mean-flow", "few-digits/improved-MeanFlow"),
            by_two("train digits-consistency", "few-digits/improved-consistency-training"),
            by_two("train digits-shortcut", "few-digits/shortcut"),
            by_two("distill RUNS/digits --to lcm --train.steps 1800 --objective.w 1 2", "few-digits/lcm"),
            by_two("distill RUNS/digits --to consistency --train.steps 1800", "few-digits/consistency"),
            by_two(f"distill RUNS/digits --to dmd {MATCHED}", "few-digits/dmd"),
            by_two(f"distill RUNS/digits --to dmd --steps 2 {MATCHED}", "few-digits/dmd-in-2"),
            "few_steps.py digits --teacher RUNS/digits --runs RUNS/few-digits --results RESULTS --only"
            ' "improved MeanFlow" "improved consistency training" shortcut lcm consistency dmd "dmd in 2"'
            ' "lcm to 3" "teacher in 50"',
            "changing.py RUNS/digits --out RESULTS/changing.csv",
        ),
    ),
    "mnist": Part(
        230,
        (
            "killed.py mnist --folder RUNS/mnist --out RESULTS/killed.csv -- --data.folder DATA --processes 2 --samples 2000",
            by_two("train mnist-consistency --data.folder DATA", "few-mnist/improved-consistency-training"),
            by_two("distill RUNS/mnist/run --to lcm --train.steps 2400 --objective.w 1 1.5", "few-mnist/lcm"),
            "few_steps.py mnist --teacher RUNS/mnist/run --runs RUNS/few-mnist --results RESULTS --only"
            ' "improved consistency training" lcm',
        ),
    ),
    "categories": Part(25, ("discrete.py --work RUNS/discrete --out RESULTS/discrete.csv --only digits licences",)),
    "shakespeare": Part(
        85,
        (
            "discrete.py --work RUNS/discrete --shakespeare DATA/tinyshakespeare.txt --out RESULTS/discrete.csv"
            " --only shakespeare infill",
        ),
    ),
    "bayesian flow": Part(10, ("bayesian_flow.py --out RESULTS/bayesian_flow.csv",)),
    "community": Part(
        20,
        (
            trained("community", "--data.path DATA/graphs/community_small.json"),
            "graphs.py RUNS/community --out RESULTS/graphs.csv",
        ),
    ),
    "community-gdss": Part(
        35,
        (
            trained("community-gdss", "--data.path DATA/graphs/community_small.json"),
            "graphs.py RUNS/community-gdss --out RESULTS/graphs.csv",
            "exploring.py RUNS/community-gdss --out RESULTS/exploring.csv",
        ),
    ),
    "community-edp": Part(
        35,
        (
            trained("community-edp", "--data.path DATA/graphs/community_small.json"),
            "graphs.py RUNS/community-edp --out RESULTS/graphs.csv",
        ),
    ),
    "sentences": Part(
        90,
        (
            trained("e2e-embedding", "--data.path DATA/e2e_a.txt DATA/e2e_b.txt"),
            trained("e2e-embedding", "--data.path DATA/e2e_a.txt DATA/e2e_b.txt --objective.spread elements", "e2e-elements"),
            "text_control.py RUNS/e2e-embedding --elements RUNS/e2e-elements --steps 50 --count 50"
            " --out RESULTS/text_control.csv",
        ),
    ),
    "qm9-graph": Part(
        90, (trained("qm9-graph", "--data.path DATA/qm9.csv"), "graphs.py RUNS/qm9-graph --out RESULTS/graphs.csv")
    ),
    "nci-graph": Part(60, (trained("nci-graph"), "graphs.py RUNS/nci-graph --out RESULTS/graphs.csv")),
    "scores": Part(
        40,
        (
            trained("digits-likelihood"),
            trained("digits-ve"),
            "scores.py --density RUNS/digits-likelihood --score RUNS/digits-ve --out RESULTS/scores.csv",
        ),
    ),
    "restoring": Part(
        90,
        (
            trained("mnist-unlabelled", "--data.folder DATA"),
            "restoring.py RUNS/mnist-unlabelled --out RESULTS/restoring.csv --pages RESULTS",
        ),
    ),
    "outliers": Part(
        20,
        (
            trained("mnist-unlabelled", "--data.folder DATA --data.without 8 --train.steps 1500", "mnist-without-8"),
            "anomaly.py RUNS/mnist-without-8 --steps 6 --out RESULTS/anomaly.csv",
        ),
    ),
    "inverse": Part(
        45,
        (
            "inverse.py --out RESULTS/inverse.csv",
            "inverse_best.py --table RESULTS/inverse.csv --out RESULTS/inverse_best.csv",
        ),
    ),
    "augment": Part(
        90,
        (
            trained("mnist-unlabelled", "--data.folder DATA"),
            "augment.py RUNS/mnist-unlabelled --data DATA --work RUNS/augment --out RESULTS/augment.csv",
        ),
    ),
    "colouring": Part(
        15,
        (
            "colouring.py --make RUNS/data-inks",
            trained("digits", "--data.kind arrays --data.x RUNS/data-inks/x.npy --data.test 297", "inks"),
            "colouring.py RUNS/inks --out RESULTS/colouring.csv --pages RESULTS",
        ),
    ),
    "drawings": Part(
        75,
        (
            "data drawings --out RUNS/data-drawings",
            trained("drawings", "--data.folder RUNS/data-drawings"),
            "drawings.py RUNS/drawings --work RUNS/augment-drawings --out RESULTS/drawings.csv",
        ),
    ),
}
"""What writes each table that a bar reads."""


def words(command: str, folders: dict[str, Path]) -> list[str]:
    """A command as a process is started by."""
    first, *rest = shlex.split(command)
    whole = [sys.executable, str(BENCH / first)] if first.endswith(".py") else [sys.executable, "-m", "langevin", first]
    for word in rest:
        for name, folder in folders.items():
            if word == name or word.startswith(f"{name}/"):
                word = str(folder) + word.removeprefix(name)
        whole.append(word)
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data that is not embedded")
    parser.add_argument("--work", type=Path, default=Path("runs/everything"))
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--list", action="store_true", help="says what there is, and stops")
    asked = parser.parse_args()
    console = Console()
    if asked.list:
        table = Table("part", "minutes of one core, reckoned", "commands")
        for name, part in PARTS.items():
            table.add_row(name, str(part.minutes), "\n".join(part.commands))
        console.print(table)
        return
    folders = {"DATA": asked.data, "RUNS": asked.work / "runs", "RESULTS": asked.work / "results"}
    if not asked.data.is_dir():
        parser.error(
            f"--data is {str(asked.data)!r}, which is no folder; name the one that holds MNIST's idx files, qm9.csv and the rest."
        )
    for folder in (folders["RUNS"], folders["RESULTS"], asked.work / "logs", asked.work / "done"):
        folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in asked.only:
        done, log = asked.work / "done" / name, asked.work / "logs" / f"{name}.log"
        if done.exists():
            console.print(f"{name}: done before; delete {done} to measure it again")
            continue
        console.print(f"{name}: reckoned at {PARTS[name].minutes} minutes of one core; output in {log}")
        began = time.monotonic()
        with log.open("a") as out:
            for command in PARTS[name].commands:
                process = subprocess.Popen(words(command, folders), stdout=out, stderr=subprocess.STDOUT)
                try:
                    code = process.wait()
                except KeyboardInterrupt:  # the terminal has told the process too, which saves what it has
                    console.print(f"stopping {name} as soon as it has saved; Ctrl-C again does not wait for it")
                    with suppress(KeyboardInterrupt):
                        process.wait()
                    console.print(
                        f"stopped in {name} after {(time.monotonic() - began) / 60:.0f} minutes; the same command goes on"
                    )
                    sys.exit(130)
                if code:
                    break
        said = f"after {(time.monotonic() - began) / 60:.0f} minutes"
        if code:
            failed.append(name)
            console.print(f"[red]{name}: exit status {code} {said}; see the end of {log}")
        else:
            done.touch()
            console.print(f"{name}: done {said}")
    told = ["--results", str(folders["RESULTS"]), *(["--measured"] if len(asked.only) < len(PARTS) else [])]
    subprocess.run([sys.executable, str(BENCH / "bars.py"), *told], check=False)
    if failed:
        console.print(f"[red]failed: {', '.join(failed)}; the same command continues them")
        sys.exit(1)


if __name__ == "__main__":
    main()
