"""The page that says which test proves which promise says so of tests that there are, and of all promises."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.soaking import Soak

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()


@cache
def named_in(file):
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name: [ast.unparse(d) for d in node.decorator_list]
            for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}  # fmt: skip


def test_every_promise_has_a_test_that_there_is():
    rows = [line.strip("| ").split("|") for line in PAGE.splitlines() if re.match(r"\| [RS]\d+ \|", line)]
    named = {row[0].strip(): row for row in rows}
    assert list(named) == [*(f"R{k}" for k in range(1, 16)), *(f"S{k}" for k in range(1, 8))]
    soaks = set()
    for gate, row in named.items():
        short, long = (re.findall(r"`([\w/]+\.py)::(\w+)`", cell) for cell in (*row[2:], "")[:2])
        assert short, f"{gate} has no test that runs every time"
        for cell, soak in ((short, False), (long, True)):
            for file, name in cell:
                marks = named_in(file).get(name)
                assert marks is not None, f"{gate} names {name}, which {file} has not"
                assert ("pytest.mark.soak" in marks) == soak, f"{gate} names {name} in the wrong column"
                soaks |= {name} if soak else set()
    files = [path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")]
    every = {name for file in files for name, marks in named_in(file).items() if "pytest.mark.soak" in marks}
    assert every - soaks == {"test_the_judge_of_mnist_is_good"}  # which is of quality


def test_a_long_proof_says_how_far_it_is_and_what_it_counted(capsys, monkeypatch):
    heard: list[str] = []
    monkeypatch.setattr("builtins.print", lambda text, **options: heard.append(text + options.get("end", "\n")))
    soak = Soak(capsys, "R1", 3, "kills", every=0)
    soak.done()
    soak.done(2)
    soak.over("the same bytes")
    said = "".join(heard)
    assert re.findall(r"R1 (\d of 3 kills), [\d.]+ minutes", said) == ["1 of 3 kills", "3 of 3 kills", "3 of 3 kills"]
    assert said.endswith("minutes: the same bytes\n")
    short = Soak(capsys, "R1", 3, "kills")
    short.done()
    with pytest.raises(AssertionError, match="1 of 3 kills"):
        short.over()
