"""Tables (markdown) and plots (PNG) of the benchmark of samplers, beside its CSV; and the table of docs/plans.md.

python bench/sampler_report.py --results bench/results/sampler_quality.csv
"""

import argparse
import shutil
from pathlib import Path

from quality import report, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("bench/results/sampler_quality.csv"))
    parser.add_argument("--page", type=Path, default=Path("docs/plans.md"), help="the page whose table is written anew")
    args = parser.parse_args()
    endpoint = list(table.read(args.results).values())
    law = list(table.read(table.law_path(args.results)).values())
    written = args.results.with_suffix(".md")
    written.write_text(report.markdown(endpoint, law))
    page = args.page.read_text()
    for name, table_of in (("measured", report.summary(endpoint)), ("measured noise", "\n".join(report.noisy_summary(law)))):
        before, rest = page.split(f"<!-- {name} -->\n")
        _, after = rest.split(f"<!-- end of {name} -->")
        page = f"{before}<!-- {name} -->\n{table_of}\n<!-- end of {name} -->{after}"
    args.page.write_text(page)
    plots = report.plot(endpoint, args.results.parent, args.results.stem)
    shutil.copy(next(path for path in plots if path.stem.endswith("_digits")), args.page.parent / "images/sampler_quality.png")
    for path in (written, *plots):
        print(path)


if __name__ == "__main__":
    main()
