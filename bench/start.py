"""Time to start: importing the library, and answering --help, beside importing torch alone.

python bench/start.py --out bench/results/start.csv
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rows import parsed, write

CASES = {
    "python alone": ["-c", "pass"],
    "import langevin": ["-c", "import langevin"],
    "langevin --help": ["-m", "langevin", "--help"],
    "langevin train digits --help": ["-m", "langevin", "train", "digits", "--help"],
    "import torch": ["-c", "import torch"],
    "first use: langevin.sample": ["-c", "import langevin; langevin.sample"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/results/start.csv"))
    parser.add_argument("--rounds", type=int, default=7)
    args = parsed(parser)
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(args.rounds + 1):
        for name, flags in CASES.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *flags], check=True, capture_output=True)
            times[name].append(time.perf_counter() - start)
    rows = []
    for name, all_of_them in times.items():
        kept = sorted(all_of_them[1:])  # the first round fills the file cache
        middle, least, most = (round(v, 3) for v in (statistics.median(kept), kept[0], kept[-1]))
        rows.append({"what": name, "seconds": middle, "least": least, "most": most})
        print(f"{name:32} {middle:7.3f} s  ({least} .. {most})")
    write(args.out, list(rows[0]), rows)


if __name__ == "__main__":
    main()
