"""What a path is, told from names, manifests and headers alone: no value is loaded, and torch is not imported."""

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from langevin.config import PICTURES
from langevin.files import read_json
from langevin.header import Entry, read_header
from langevin.manifest import MANIFEST, Manifest, Shard, open_shard, read_manifest, steps, verify
from langevin.record import printable, read_record

_RECIPE_LIMIT = 2**20
_OF_SAMPLES = ("count", "seed", "plan", "label", "guidance", "prompt", "property", "strength")
_OF_RUNS = ("weights", "lora", "codec", "weaker", "apart", "explore")
"""What a record of samples tells as the flags of the same names."""
_OTHERS = {
    "tuning.json": (
        "what langevin finetune left",
        "its command goes on with it by --resume; langevin generate draws with the .safetensors, or the folder, that it made",
    ),
    "regressor.json": (
        "a regressor, as langevin regress makes them",
        "langevin sample RUN --property NAME=VALUE --steer PATH is steered by it",
    ),
}
"""What other commands that train leave, by the file that tells it: what it is, and what it is for."""


def is_ours(path: Path) -> bool:
    """Whether a path is a run directory, what `lv.fit` left, or a checkpoint, by the files in it."""
    return (path / "recipe.json").is_file() or (path / MANIFEST).is_file() or bool(steps(path / "checkpoints"))


def describe(path: str | Path, check: bool = False) -> str:
    """A few lines about a run directory, what `lv.fit` left, a checkpoint, a safetensors file, or a picture (.png) that says how
    it was made.

    Args:
        check: read every file of a checkpoint and compare its hash.

    Raises:
        ValueError: if it is none of these, or damaged.
    """
    path = Path(path)
    if (path / "recipe.json").is_file():
        return _run(path, check)
    if (path / MANIFEST).is_file():
        return _checkpoint(path, check)
    if found := steps(path / "checkpoints"):
        return _fitted(path, found, check)
    if path.suffix == ".safetensors" and path.is_file():
        header = read_header(path)
        said = [f"  {name} = {value[:100]}" for name, value in header.metadata.items()]
        names = [f"  {e.name}  {e.dtype} {e.shape}" for e in sorted(header.entries, key=lambda e: e.name)]
        return "\n".join([f"{path.name}: {_amount(header.entries)}", *said, *names])
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    if is_picture(path):
        return _picture(path)
    raise ValueError(f"{path} is no run directory, checkpoint, safetensors file or picture; give one of these.")


def is_picture(path: Path) -> bool:
    """Whether a path is the file of a picture, by its name."""
    return path.suffix.lower() == ".png" and path.is_file()


def _picture(path: Path) -> str:
    record = read_record(path)
    if not record:
        return f"{path.name}: a picture that does not say how it was made"
    said = [f"  {name} = {value if isinstance(value, str) else json.dumps(value)}" for name, value in record.items()]
    said = [printable(line) for line in said]
    if "edited" in record:
        return "\n".join([f"{path.name}: a picture of langevin, made of another; langevin edit makes it of that again", *said])
    shown = "".join(f" --{name} THE-SAME" for name in PICTURES if record.get(name))  # of which it has the hash alone
    again = f"generate PATH --again {shlex.quote(path.name)}{shown}" if "run" not in record else _sampled(record)
    one = f" as picture {record['id']}" if "run" in record and isinstance(record.get("id"), int) else ""
    return "\n".join([f"{path.name}: a picture of langevin; `langevin {printable(again)}` draws it again{one}", *said])


def _sampled(record: Mapping[str, Any]) -> str:
    """The command that draws what was drawn from a run, which is whoever reads this to find."""
    loaded = record["loaded"] if isinstance(record.get("loaded"), dict) else {}
    said = {**{name: record.get(name) for name in _OF_SAMPLES}, **{name: loaded.get(name) for name in _OF_RUNS}}
    words = [f"--{name}={value}" for name, value in said.items() if isinstance(value, (int, float, str))]
    for name, value in said.items():
        words += [f"--{name}", *map(str, value)] if isinstance(value, list) else []
    words += ["--source", "SOURCE"] * ("source" in record) + ["--image", "IMAGE"] * ("image" in record)
    words += ["--steer", "REGRESSOR"] * ("steer" in (record.get("unsaid") or []))
    return shlex.join(["sample", "RUN", *words, "--out", "FOLDER" if "id" in record else "FILE.png"])


def numbered(names: Iterable[str]) -> str:
    """Classes in words, each with its number."""
    return ", ".join(f"{k} {name}" for k, name in enumerate(names))


def _run(path: Path, check: bool) -> str:
    recipe = read_json(path / "recipe.json", _RECIPE_LIMIT)
    if not isinstance(recipe, dict) or not isinstance(recipe.get("train", {}), dict):
        raise ValueError(f"{path / 'recipe.json'} is no recipe.")
    lines = [
        f"run of recipe {recipe.get('name')}: {recipe.get('about')}",
        f"process {json.dumps(recipe.get('process'))}",
        f"network {json.dumps(recipe.get('network'))}",
        f"samples with {json.dumps(recipe.get('sample'))}",
    ]
    facts = read_json(path / "facts.json", _RECIPE_LIMIT) if (path / "facts.json").exists() else {}
    told = facts if isinstance(facts, dict) else {}
    of_table = told["table"].get("classes") if isinstance(told.get("table"), dict) else None
    if isinstance(names := told.get("class_names") or of_table, list):  # as `langevin.recipes.facts.Facts.names`
        lines.append(f"classes {numbered(names)}")
    if isinstance(begun := recipe.get("finetune"), dict) and begun.get("origin"):
        lines.append(f"fine-tuned {json.dumps(begun)}")
    found = steps(path / "checkpoints")
    if not found:
        return "\n".join([*lines, "no checkpoint yet"])
    total = recipe.get("train", {}).get("steps")
    return "\n".join([*lines, *_newest(found, total, check)])


def _fitted(path: Path, found: list[Path], check: bool) -> str:
    """What a training that is no run left: one in Python, whose network and data are the caller's own, or another command's."""
    made = next((told for file, told in _OTHERS.items() if (path / file).is_file()), None)
    usual = "what lv.fit left in Python, without a recipe: its network and its data are the program's that called it"
    lines = [f"{path.name}: {made[0] if made else usual}"]
    try:
        state = read_manifest(found[-1]).state
    except ValueError:  # which is told below, where all else is known
        state = {}
    what, config = (state[name] if isinstance(state.get(name), dict) else {} for name in ("what", "config"))
    lines += [printable(f"{name} {value}")[:300] for name, value in what.items() if name != "network"]
    lines += _newest(found, config.get("steps"), check)
    if made:
        return "\n".join([*lines, made[1]])
    weights = f"lv.training.load_latest({json.dumps(str(path / 'checkpoints'))}).tensors"
    lines += [
        "to open it, build the denoiser as the program did; then",
        f"  lv.fit(denoiser, data, out={json.dumps(str(path))}, resume=True) goes on with it",
        f'  denoiser.load_state_dict({weights}["ema"]) has its averaged weights, "model" those of the last step',
    ]
    return "\n".join(lines)


def _newest(found: list[Path], total: object, check: bool) -> list[str]:
    """The newest of some checkpoints, out of so many steps; of the others, to be checked, whether they are whole."""
    lines = [f"newest checkpoint of {len(found)}, out of {total} steps:", _checkpoint(found[-1], check)]
    for older in reversed(found[:-1]) if check else []:
        try:
            verify(older, read_manifest(older))
            lines.append(f"{older.name}: every hash agrees")
        except ValueError as error:
            lines.append(str(error))
    return lines


def _checkpoint(path: Path, check: bool) -> str:
    manifest = read_manifest(path)
    code = ", ".join(f"{name} {version}" for name, version in manifest.code.items())
    seen = manifest.state.get("samples")
    lines = [f"{path.name}: step {manifest.step}" + (f", {seen} samples seen" if isinstance(seen, int) else "")]
    lines.append(f"  format {manifest.format}" + (f", written by {code}" if code else ""))
    for part in sorted(manifest.parts):
        lines.append(f"  {part}: {_part(path, manifest.parts[part])}")
    if check:
        verify(path, manifest)
        lines.append(f"  every hash agrees, {_size(path, manifest):,} bytes")
    return "\n".join(lines)


def _part(folder: Path, shards: tuple[Shard, ...]) -> str:
    """What a part holds, and which of its files are not as long as they should be."""
    entries: list[Entry] = []
    wrong = []
    for shard in shards:
        try:
            with open_shard(folder, shard):
                pass
            entries += read_header(folder / shard.file).entries if shard.entries is None else shard.entries
        except ValueError as error:
            entries += shard.entries or ()
            wrong.append(str(error))
    files = f" in {len(shards)} files" if len(shards) > 1 else ""
    return "; ".join([_amount(entries) + files, *wrong])


def _amount(entries: Iterable[Entry]) -> str:
    entries = list(entries)
    size = sum(e.size for e in entries)
    kinds = f" of {', '.join(sorted({e.dtype for e in entries}))}" if entries else ""
    return f"{len(entries)} tensors{kinds}, {sum(e.count for e in entries):,} values, {size / 2**20:.1f} MiB"


def _size(path: Path, manifest: Manifest) -> int:
    return sum((path / file).stat().st_size for file in [*manifest.files, MANIFEST])
