"""The page on published families is of the code: every pipeline, layout and part stands in it, with what the code says."""

import re
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from langevin.cli.generating import _Generate
from langevin.zoo import registry
from langevin.zoo.layouts import LAYOUTS, single
from langevin.zoo.pipelines import KINDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "families.md").read_text()


def _rows(section: str) -> dict[str, dict[str, str]]:
    """The table under a heading: each name of the first column -> {column: text}."""
    (body,) = re.findall(rf"^## {section}\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
    head, _, *lines = ([cell.strip() for cell in line[1:-1].split(" |")] for line in body.splitlines() if line[:1] == "|")
    names = [(name, dict(zip(head, cells, strict=True))) for cells in lines for name in _named(cells[0])]
    assert len(dict(names)) == len(names), f"{section} names something twice"
    return dict(names)


def _named(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_every_pipeline_has_the_defaults_of_the_code() -> None:
    rows = _rows("What a request takes")
    assert set(rows) == set(KINDS)
    for name, kind in KINDS.items():
        made, row = kind.defaults, rows[name]
        told = {"size": "{} x {}".format(*made.size), "steps": str(made.steps), "w": f"{made.guidance:g}{', told' * made.told}"}
        assert {key: row[key] for key in told} == told, name
        assert sorted(_named(row["needs"])) == sorted(kind.needs) and _named(row["takes"]) == [kind.takes] * bool(kind.takes), (
            name
        )


def _said(layout: str, guided: bool = True, inputs: int | None = None) -> tuple[str | None, dict[str, Any], dict[str, Any]]:
    """What is said of a layout's file beside its weights: the pipeline, its scheduler, and the autoencoder's scale."""
    flow = layout.startswith(("flux", "stable-diffusion-3"))
    net = {"in_channels": inputs or (64 if layout.startswith("flux") else 4), "guidance_embeds": guided}
    coder = {"latent_channels": 16 if flow else 4, "block_out_channels": [1, 2, 3, 4]}
    pieces: dict[str, Any] = {
        p.component: SimpleNamespace(kind="AutoencoderKL" if p.component == "vae" else "", config={**net, **coder})
        for p in LAYOUTS[layout]
    }
    name, scheduler = single._whole(layout, pieces, {}, lambda name: None, None)  # pyright: ignore
    return name, scheduler or {}, pieces["vae"].config if "vae" in pieces else {}


def test_every_single_file_has_the_parts_and_the_scheduler_of_the_code() -> None:
    rows = _rows("Single files")
    assert set(rows) == set(LAYOUTS)
    for layout, places in LAYOUTS.items():
        row = rows[layout]
        assert _named(row["holds"]) == [place.component for place in places], layout
        pipeline, scheduler, _ = _said(layout)
        assert _named(row["pipeline"]) == ([] if pipeline is None else [pipeline]), layout
        told = row["scheduler, prediction, shift"]
        assert _named(told) == [scheduler[key] for key in ("_class_name", "prediction_type") if key in scheduler], layout
        if scheduler.get("use_dynamic_shifting"):
            plain = _said(layout, guided=False)[1]
            assert told.endswith(f", by size; schnell {plain['shift']:g}"), layout
        elif "shift" in scheduler:
            assert told.endswith(f", {scheduler['shift']:g}"), layout
    for layout, inputs, pipeline in (
        ("stable-diffusion-1", 9, "StableDiffusionInpaintPipeline"), ("sdxl", 9, "StableDiffusionXLInpaintPipeline"),
        ("stable-diffusion-2", 9, "StableDiffusionInpaintPipeline"), ("stable-diffusion-2", 7, "StableDiffusionUpscalePipeline"),
    ):  # fmt: skip
        assert _said(layout, inputs=inputs)[0] == pipeline and pipeline in KINDS


def test_autoencoders_are_scaled_as_the_page_says() -> None:
    (body,) = re.findall(r"^## Autoencoders\n(.*?)^##", PAGE, re.M | re.S)
    for of, layout, inputs in (
        ("`stabilityai/sd-vae-ft-mse`", "stable-diffusion-1", None), ("of SDXL", "sdxl", None),
        ("x4 upscaler", "stable-diffusion-2", 7), ("of Stable Diffusion 3", "stable-diffusion-3", None),
        ("of FLUX.1", "flux-whole", None),
    ):  # fmt: skip
        scale = _said(layout, inputs=inputs)[2]
        told = ", ".join(f"{scale[key]:g}" for key in ("scaling_factor", "shift_factor") if scale[key] is not None)
        assert len(re.findall(rf"^\|.*{re.escape(of)}.*\| {re.escape(told)} \|", body, re.M)) == 1, of


def test_every_part_that_a_folder_may_name_is_there() -> None:
    rows = _rows("Parts")
    assert {name: row["publishes"] for name, row in rows.items()} == {
        part.name: "no" if part.config is None else "yes" for part in registry.components()
    }


def test_what_the_page_names_exists() -> None:
    flags = {f.name.replace("_", "-") for f in fields(_Generate)} | {"no-paste"}
    for command in re.findall(r"`langevin generate ([^`]*)`", PAGE):
        assert set(re.findall(r"--([a-z-]+)", command)) <= flags, command
    headings = re.findall(r"^#+ (.*)", PAGE, re.M)
    anchors = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= anchors
    checked = re.findall(r"`(tests/parity/\w+\.py)`(?:\s\(((?:[^()]|\([^()]*\))*)\))?", PAGE)
    assert len(checked) > 60
    for path, cases in checked:
        source = (ROOT / path).read_text()
        for case in _named(cases):
            assert re.search(rf"\b{re.escape(case)}\b", source), f"{path} knows no {case}"
    # each block says how it is drawn, by what it was trained, what was held to what, and what to mind
    blocks = re.findall(r"^### (.*?)\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
    assert len(blocks) > 20
    for name, block in blocks:
        assert {"Draw", "Checked", "Mind"} <= set(re.findall(r"^- \*\*(\w+)\*\*", block, re.M)), name
