"""Runs of texts as a user meets them: langevin write, likelihood, evaluate."""

import json
import re

import pytest

from langevin.cli import main

TINY = ["--train.steps", "2", "--train.batch", "4", "--data.length", "16", "--network.width", "16", "--network.heads", "2",
        "--network.depth", "1", "--sample.plan", "ddpm:4", "--train.preview-every", "100", "--samples", "20"]  # fmt: skip
VERSE = "shall i compare thee to a summers day thou art more lovely and more temperate "


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts")
    (root / "verse.txt").write_text(VERSE * 20)
    (root / "lines.txt").write_text("\n".join(f"{k} || thou art {w} ." for k in range(40) for w in ("fair", "kind")))
    for name, recipe, more in (
        ("whole", "shakespeare", ["--data.path", str(root / "verse.txt")]),
        ("blocks", "shakespeare-autoregressive", ["--data.path", str(root / "verse.txt")]),
        ("lines", "e2e", ["--data.path", str(root / "lines.txt"), "--data.alphabet", "characters", "--data.stride", "4"]),
    ):
        main(["train", recipe, *TINY, *more, "--out", str(root / name)])
    return root


def said(capsys, *args):
    capsys.readouterr()
    main(["write", *map(str, args)])
    return capsys.readouterr().out


def test_texts_begin_with_their_prefix_and_are_as_long_as_asked(runs, capsys, tmp_path):
    for name in ("whole", "blocks"):
        out = said(capsys, runs / name, "--prefix", "thou art", "--length", "50", "--count", "2", "--plan", "ddpm:2")
        one, two = out.removesuffix("\n").split("\n----\n")
        assert len(one) == len(two) == 50 and one.startswith("thou art") and two.startswith("thou art") and one != two
        main(
            [
                "write",
                str(runs / name),
                "--prefix",
                "thou art",
                "--length",
                "50",
                "--plan",
                "ddpm:2",
                "--out",
                str(tmp_path / "a.txt"),
            ]
        )
        assert (tmp_path / "a.txt").read_text() == one + "\n"


def test_blanks_are_filled_and_nothing_else_changes(runs, capsys):
    out = said(
        capsys, runs / "whole", "--infill", "thou ___ more", "--plan", "confidence:3:order=entropy", "--temperature", "0.5"
    )
    assert re.fullmatch(r"thou [a-z ]{3} more\n", out)
    out = said(capsys, runs / "lines", "--infill", "thou #rt kind", "--blank", "#")
    assert out.startswith("thou ") and "rt kind" in out


def test_lines_are_texts_that_end(runs, capsys):
    capsys.readouterr()
    main(["likelihood", str(runs / "lines"), "--count", "4", "--draws", "4", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["elements"] == 16 and "4 numbers of masks" in found["how"]
    main(["likelihood", str(runs / "blocks"), "--count", "4", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert "exact" in found["how"] and found["of_which_drawn"] == 0
    assert found["bits_per_character"] == pytest.approx(found["bits_per_element"])  # a character is a token here
    main(["likelihood", str(runs / "lines"), "--count", "4", "--draws", "4"])
    assert re.search(r"bits per character \(.* bits per token, .* nats\)\n4 samples of 16 elements", capsys.readouterr().out)
    values = json.loads((runs / "lines" / "metrics.json").read_text())["metrics"]
    assert values["bits_per_character"] > 0 and values["entropy_real"] > values["ngrams_real"]


def test_as_many_held_out_windows_are_judged_as_samples_are_asked_for(runs, capsys):
    capsys.readouterr()
    main(["evaluate", str(runs / "lines"), "--small", "--count", "3", "--seed", "2", "--json"])
    judged = json.loads(capsys.readouterr().out)
    assert judged["protocol"]["metrics"]["bits_per_character"].endswith("; 3 windows")
    main(["likelihood", str(runs / "lines"), "--count", "3", "--seed", "2", "--json"])
    known = json.loads(capsys.readouterr().out)["bits_per_character"]
    assert judged["metrics"]["bits_per_character"] == pytest.approx(known, rel=1e-6)


@pytest.mark.parametrize("args, message", [
    (["whole", "--infill", "thou art"], "infill has no blank '_'"),
    (["whole", "--infill", "a_", "--prefix", "b"], "leave out prefix and length"),
    (["whole", "--prefix", "żółw"], "'ż' is none of the"),
    (["blocks", "--infill", "a_t"], "writes blocks of 1 and sees nothing after"),
    (["whole", "--infill", "a" * 20 + "_"], "21 tokens and the model sees 16"),
    (["whole", "--temperature", "0"], "temperature is 0.0"),
], ids=["blank", "both", "letter", "blocks", "long", "temperature"])  # fmt: skip
def test_what_cannot_be_written_is_said_in_a_sentence(runs, capsys, args, message):
    with pytest.raises(SystemExit):
        main(["write", str(runs / args[0]), *args[1:]])
    assert message in capsys.readouterr().err


def test_blocks_ask_for_masks_that_are_counted(runs, capsys):
    with pytest.raises(SystemExit):
        main(["train", "shakespeare-blocks", *TINY, "--network.block", "5", "--data.path", str(runs / "verse.txt"), "--out",
              str(runs / "no")])  # fmt: skip
    assert "network.block is 5; blocks are learned with" in capsys.readouterr().err


@pytest.mark.parametrize(
    "process", [["--process.limit", "uniform"], ["--process.limit", "uniform", "--process.kernel", "ordinal"]]
)
def test_texts_without_masks_need_a_network_that_is_told_the_level(process, tmp_path, capsys):
    (tmp_path / "verse.txt").write_text(VERSE * 20)
    asked = ["train", "shakespeare", *TINY, *process, "--process.prediction", "logits",
             "--data.path", str(tmp_path / "verse.txt"), "--out", str(tmp_path / "run")]  # fmt: skip
    with pytest.raises(SystemExit):
        main(asked)
    assert "--network.timed" in capsys.readouterr().err
