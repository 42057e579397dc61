"""Tables (markdown) and plots (PNG) of the benchmark of samplers, beside its CSV.

python bench/sampler_report.py --results bench/results/sampler_quality.csv
"""

import argparse
from pathlib import Path

from quality import report, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("bench/results/sampler_quality.csv"))
    args = parser.parse_args()
    endpoint = list(table.read(args.results).values())
    law = list(table.read(table.law_path(args.results)).values())
    written = args.results.with_suffix(".md")
    written.write_text(report.markdown(endpoint, law))
    for path in (written, *report.plot(endpoint, args.results.parent, args.results.stem)):
        print(path)


if __name__ == "__main__":
    main()
