"""The bars of bench/bars.py are those of the committed tables, and a worse number is seen."""

import csv
import re
import shutil

import pytest

from langevin.recipes import recipe
from tests.benches import BENCH, bench


@pytest.fixture(scope="module")
def bars():
    return bench("bars")


def test_the_page_is_what_the_tables_say(bars):
    """And each bar that the page calls met or missed stands on rows that are there."""
    assert (BENCH / "results" / "bars.md").read_text() == bars.markdown(bars.judged())


def test_a_worse_number_is_missed_and_a_lost_one_is_not_measured(bars, tmp_path):
    for file in (BENCH / "results").glob("*.*"):
        shutil.copy(file, tmp_path)
    with (tmp_path / "graphs.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))

    def said(about):
        return next(word for bar, _, _, word in bars.judged(tmp_path) if bar.about.startswith(about))

    def rewritten(rows):
        with (tmp_path / "graphs.csv").open("w", newline="") as lines:
            table = csv.DictWriter(lines, rows[0])
            table.writeheader()
            table.writerows(rows)

    about, named = "qm9-graph, ddpm:500: valid", {"run": "qm9-graph", "plan": "ddpm:500", "measure": "valid"}
    mine = [r for r in rows if all(r[k] == v for k, v in named.items())]
    assert said(about) == "met" and len(mine) == 1
    mine[0]["value"] = "0.89"
    rewritten(rows)
    assert said(about) == "missed"
    # beside it: DeFoG is now ahead of what it is compared with, not behind
    assert said("qm9-graph: valid by DeFoG") == "met"
    rewritten([r for r in rows if r is not mine[0]])
    assert said(about) == said("qm9-graph: valid by DeFoG") == "not measured"


def test_where_several_rows_answer_the_worst_of_them_counts(bars):
    worst = bars.Number("tabular.csv", "difference", {"set": "wine"})
    with (BENCH / "results" / "tabular.csv").open(newline="") as lines:
        found = [float(r["difference"]) for r in csv.DictReader(lines) if r["set"] == "wine"]
    folder = BENCH / "results"
    assert bars.Bar("", "", worst, 0.0).judge(folder) == (max(found), -max(found))
    assert bars.Bar("", "", worst, 0.0, least=True).judge(folder) == (min(found), min(found))


def test_a_bound_may_be_told_over_what_stands_beside(bars, tmp_path):
    (tmp_path / "some.csv").write_text("what,value\na,3\nb,2\n")
    one, other = (bars.Number("some.csv", "value", {"what": what}) for what in "ab")
    for bound, least, more, said in (
        (1.0, False, True, ("1", "at most 1 more", "met")),
        (0.9, False, True, ("1", "at most 0.9 more", "missed")),
        (1.5, True, False, ("1.5", "at least 1.5 times", "met")),
    ):
        bar = bars.Bar("", "", one, bound, other, least, more)
        assert bars.judged(tmp_path, [bar]) == [(bar, *said)]


def test_recipes_of_shakespeare_expect_what_the_table_says():
    with (BENCH / "results" / "discrete.csv").open(newline="") as lines:
        bits = {r["model"]: r for r in csv.DictReader(lines) if r["part"] == "shakespeare" and r["measure"] == "bits/character"}
    for name in ("shakespeare", "shakespeare-blocks", "shakespeare-uniform", "shakespeare-autoregressive"):
        row, said = bits[name], recipe(name).expects
        updates = float(re.search(r"after ([\d,]+) updates", said)[1].replace(",", ""))  # pyright: ignore[reportOptionalSubscript]
        assert f"{float(row['value']):.2f}" in said and abs(updates - float(row["updates"])) <= 50, name
        assert ("at most" in said) == (row["note"] == "a bound")


def test_each_cell_beside_azula_is_compared(bars):
    """And what is beyond chance is the difference less two of its errors, of those that were run anew."""
    with (BENCH / "results" / "inverse.csv").open(newline="") as lines:
        cells = {tuple(r[k] for k in ("data", "measured", "method", "budget")) for r in csv.DictReader(lines) if r["whose"]}
    with (BENCH / "results" / "inverse_best.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert sorted(cells) == sorted(tuple(r[k] for k in ("data", "measured", "method", "budget")) for r in rows)
    for r in rows:
        beyond = float(r["difference"]) - 2 * float(r["error"] or 0)
        assert float(r["excess"]) == pytest.approx(beyond, abs=1.6e-4) and (r["error"] != "") == (r["seeds"] != "")
        # nothing that azula leads in was left to the choice of settings
        assert r["seeds"] or float(r["difference"]) <= 0
    asked = {
        tuple(bar.value.of[k] for k in ("data", "method", "budget")) for bar in bars.BARS if bar.value.file == "inverse_best.csv"
    }
    assert asked == {(data, method, budget) for data, _, method, budget in cells}
