"""LoRA files as others write them, on networks of ours and text encoders, and back.

A file holds, for each layer W of the published network, a pair: W + strength (alpha / rank) up down. It goes by the names of

- peft: `unet.<layer>.lora_A.weight`, `lora_B`; alpha in the metadata or in adapter_config.json beside the file, by layer if need
  be, else the rank;
- diffusers' attention processors of 2023: `unet.<block>.attn1.processor.to_q_lora.down.weight`; alpha is the rank;
- kohya: `lora_unet_<layer with _>.lora_down.weight`, `lora_up`, `alpha`; text encoders `lora_te_`, `lora_te1_`, `lora_te2_`. The
  layers go by their published names or (SDXL, FLUX) by those of the original single file, where several may be fused in one.

Every layer keeps the alpha that its file gives it. Pairs whose layers stand in one layer of ours are stacked: A one below the
other, B block by block, so that nothing is multiplied out and the file can be written again from what is there.
"""

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from langevin import adapters
from langevin.adapters import LoRA
from langevin.tensors import save
from langevin.zoo.family import Config, parameters
from langevin.zoo.hub import ADAPTER, is_file, read_object
from langevin.zoo.keys import COPIES, SAME, SQUEEZE, STACK, SWAP, UNSQUEEZE, KeyMap, Row
from langevin.zoo.layouts import transformer, unet
from langevin.zoo.layouts.table import Table
from langevin.zoo.store import open_weights

_TABLES: dict[str, Callable[[Config], Table]] = {
    "UNet2DConditionModel": unet.cross_table,
    "FluxTransformer2DModel": transformer.flux_table,
    "SD3Transformer2DModel": transformer.sd3_table,
    "DiTTransformer2DModel": transformer.dit_table,
}
PEFT = "adapter_model.safetensors"
FILES = ("pytorch_lora_weights.safetensors", PEFT)
"""What diffusers and peft call a file of adapters."""
_DENOISERS = ("unet", "transformer")
_ON_ROWS = (SAME, STACK, SWAP, SQUEEZE, UNSQUEEZE)
_FOREIGN = {
    r"hada_w\w+|hada_t\d": "LoHa", r"lokr_\w+": "LoKr", r"dora_scale|lora_magnitude_vector(\.weight)?": "DoRA",
    r"lora_mid\.weight": "LoCon in Tucker's form", r"diff(_b)?|set_weight": "full differences", r"oft_\w+": "OFT",
    r"lora_B\.bias|lora_up\.bias": "adapters with biases",
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """up (scales down): down (rank, in, ...), up (out, rank), scales (rank,) in float64."""

    down: Tensor
    up: Tensor
    scales: Tensor


@dataclass(frozen=True)
class Target:
    """A network that files adapt.

    Args:
        net: ours, or a text encoder.
        rows: from the weights of its layers to the published ones.
        shapes: of its weights. published: of theirs.
        originals: from the weights of the original single file to the published ones.
        fused: whether kohya's programs write the original names.
    """

    net: nn.Module
    rows: Sequence[Row]
    shapes: Mapping[str, tuple[int, ...]]
    published: Mapping[str, tuple[int, ...]]
    originals: Sequence[Row] = ()
    fused: bool = False
    names: dict[str, str | Row] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.originals:
            self._spell(row.ours, row)
        for name in self.published:
            self._spell(name, name)
            self._spell(name.removeprefix("text_model."), name)

    def _spell(self, weight: str, meant: str | Row) -> None:
        name = weight.removesuffix(".weight")
        self.names[name] = self.names[name.replace(".", "_")] = meant


def _layers_of(net: nn.Module, rows: Sequence[Row]) -> tuple[list[Row], dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    layers = adapters.layers(net)
    mine = [row for row in rows if row.ours.endswith(".weight") and row.ours.removesuffix(".weight") in layers]
    mine = [row for row in mine if row.move is not COPIES]
    shapes = {row.ours: tuple(layers[row.ours.removesuffix(".weight")].weight.shape) for row in mine}
    published: dict[str, tuple[int, ...]] = {}
    for row in mine:
        parts = row.move.save(torch.empty(shapes[row.ours], device="meta"), len(row.theirs))
        published |= {name: tuple(part.shape) for name, part in zip(row.theirs, parts, strict=True)}
    return mine, shapes, published


def target(net: nn.Module, keys: KeyMap, config: Config) -> Target:
    """A denoiser.

    Args:
        keys: of its family. config: its published config.json.
    """
    rows, shapes, published = _layers_of(net, keys.rows(parameters(net)))
    kind = str(config.get("_class_name"))
    made = _TABLES[kind](config).back(published, kind) if kind in _TABLES else []
    fused = kind in ("FluxTransformer2DModel", "SD3Transformer2DModel") or config.get("addition_embed_type") == "text_time"
    return Target(net, rows, shapes, published, [row for row in made if row.move is not COPIES], fused)


# Reading


@dataclass
class _Entry:
    """What a file says of one layer, with the names of the tensors."""

    names: list[str] = field(default_factory=list)
    parts: dict[str, Tensor] = field(default_factory=dict)
    alpha: float | None = None


_PATTERNS = (
    (re.compile(r"(?P<stem>.+)\.lora_(?P<part>down|up|A|B)(\.\w+)?\.weight"), None),
    (re.compile(r"(?P<stem>.+)\.(lora|lora_linear_layer)\.(?P<part>down|up)\.weight"), None),
    (re.compile(r"(?P<stem>.+?)(\.processor)?\.(?P<layer>\w+)_lora\.(?P<part>down|up)\.weight"), "to_out.0"),
    (re.compile(r"(?P<stem>.+)\.(?P<part>alpha)"), None),
)
_PARTS = {"A": "down", "B": "up"}


def _entries(tensors: Mapping[str, Tensor], path: str | Path) -> dict[str, _Entry]:
    """By the name of the layer as the file has it."""
    made: dict[str, _Entry] = {}
    for name, value in tensors.items():
        for pattern, how in _FOREIGN.items():
            if re.search(rf"\.({pattern})$", name):
                raise ValueError(f"{path} holds {name!r}: {how}, which is no product of two low-rank matrices and is not read.")
        for pattern, out in _PATTERNS:
            if found := pattern.fullmatch(name):
                stem = found["stem"]
                if out:
                    stem += f".{out if found['layer'] == 'to_out' else found['layer']}"
                entry = made.setdefault(stem, _Entry())
                entry.names.append(name)
                if found["part"] == "alpha":
                    entry.alpha = float(value)
                else:
                    entry.parts[_PARTS.get(found["part"], found["part"])] = value
                break
        else:
            raise ValueError(f"{path} holds {name!r}, which is of no layout of adapters known here: peft, diffusers, kohya.")
    return made


def _component(stem: str, targets: Mapping[str, Target]) -> tuple[str, str]:
    """The component that a stem is of, and the layer in it."""
    denoiser = next((n for n in _DENOISERS if n in targets), "unet")
    if found := re.fullmatch(r"lora_te(\d?)_(.+)", stem):
        return "text_encoder" + (f"_{found[1]}" if found[1] not in ("", "1") else ""), found[2]
    if found := re.fullmatch(r"(text_encoder(?:_\d)?)\.(.+)", stem):
        return found[1], found[2]
    return denoiser, re.sub(r"^(lora_(unet|transformer)_|unet\.|transformer\.|diffusion_model\.|base_model\.model\.)", "", stem)


def _rule(said: Mapping[str, Any], component: str, layer: str) -> tuple[float | None, bool]:
    """alpha of a layer by peft's configuration, and whether it is divided by the root of the rank."""
    mine = {k.removeprefix(component + "."): v for k, v in said.items() if k.startswith(component + ".")} or dict(said)
    patterns = mine.get("alpha_pattern") or {}
    if not isinstance(patterns, Mapping):
        raise ValueError(f"alpha_pattern of the adapters is {str(patterns)[:80]}, where numbers by layer should be.")
    alpha = next((v for k, v in patterns.items() if _fits(k, layer)), mine.get("lora_alpha"))
    if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, (int, float))):
        raise ValueError(f"alpha of {layer!r} is {str(alpha)[:80]!r} in the settings of the adapters, and no number.")
    return None if alpha is None else float(alpha), bool(mine.get("use_rslora"))


def _fits(pattern: str, layer: str) -> bool:
    """Whether peft's pattern, a regular expression, is of a layer. Those that could be matched for ever are refused."""
    if len(pattern) > 256 or re.search(r"\)[*+?{]", pattern) or len(re.findall(r"(?<!\()[*+?{]", pattern)) > 3:
        raise ValueError(f"alpha_pattern of the adapters has {pattern[:80]!r}; give names, with at most 3 plain repetitions.")
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", layer) is not None
    except re.error:
        raise ValueError(f"alpha_pattern of the adapters has {pattern[:80]!r}, which is no regular expression.") from None


def peft_config(path: Path) -> dict[str, Any]:
    """The adapter_config.json beside a file of peft's, which alone says how strong its adapters are; {} where there is none, or
    where it is of another file.

    Raises:
        ValueError: for a damaged one, or adapters that are no plain products, or that were made for changed weights.
    """
    beside = path.with_name(ADAPTER)
    if not is_file(beside) or (path.name != PEFT and is_file(path.with_name(PEFT))):
        return {}
    said = read_object(beside)
    start = said.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(("pissa", "olora", "corda", "loftq")):
        raise ValueError(
            f"{beside} has init_lora_weights {start[:40]!r}, which also changes the weights; save them as plain LoRA."
        )
    if (kind := said.get("peft_type", "LORA")) != "LORA" or said.get("use_dora"):
        raise ValueError(f"{beside} is of {'DoRA' if kind == 'LORA' else str(kind)[:40]}, and LoRA alone is read here.")
    return said


def _pair(entry: _Entry, alpha: float | None, root: bool, what: str) -> Pair:
    lost = [part for part in ("down", "up") if part not in entry.parts]
    if lost:
        raise ValueError(f"{what} has {', '.join(map(repr, entry.names))}, and lacks the matrix that goes {lost[0]}.")
    down, up = entry.parts["down"], entry.parts["up"]
    rank = len(down)
    if up.ndim < 2 or down.ndim < 2 or not rank or up.shape[1] != rank or up[0].numel() != rank:
        raise ValueError(f"{what} has matrices of the shapes {tuple(down.shape)} and {tuple(up.shape)}, which make no product.")
    alpha = entry.alpha if entry.alpha is not None else alpha if alpha is not None else None
    scale = 1.0 if alpha is None else alpha / (math.sqrt(rank) if root else rank)
    if not math.isfinite(scale):
        raise ValueError(f"{what} has the alpha {alpha}, which is not finite.")
    return Pair(down, up.flatten(1), torch.full((rank,), scale, dtype=torch.float64))


def _places(row: Row, shape: tuple[int, ...]) -> list[Tensor]:
    """Which rows of a joined weight each part holds.

    Raises:
        ValueError: if the parts are no rows of it, so that adapters cannot be carried over.
    """
    row_numbers = torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    parts = row.move.save(row_numbers, len(row.theirs))
    places = [part.flatten(1)[:, 0] for part in parts]
    whole = torch.equal(torch.cat(places).sort().values, torch.arange(shape[0]))
    if whole and row.move not in _ON_ROWS:  # whether columns stay where they are as well
        columns = torch.arange(math.prod(shape[1:]))
        parts = row.move.save(columns.reshape(1, *shape[1:]).expand(shape), len(row.theirs))
        whole = all(torch.equal(part[0].flatten(), columns) for part in parts)
    if not whole:
        raise ValueError(f"{row.ours!r} is not made of rows of {row.theirs[0]!r}; adapters of it cannot be carried over.")
    return places


def _split(row: Row, pair: Pair, shape: tuple[int, ...], trim: bool) -> list[Pair]:
    """The pairs of the parts. trim: without the ranks that are zero in a part, as stacking makes them."""
    made = []
    for place in _places(row, shape):
        up = pair.up[place]
        keep = up.ne(0).any(0)
        if trim and len(row.theirs) > 1 and bool(keep.any()) and not bool(keep.all()):
            made.append(Pair(pair.down[keep], up[:, keep], pair.scales[keep]))
        else:
            made.append(Pair(pair.down, up, pair.scales))
    return made


def _join(row: Row, parts: Mapping[str, Pair], shape: tuple[int, ...]) -> Pair:
    """The pair of a joined weight, of those parts that have one. Parts that share `down` share its ranks."""
    blocks: list[tuple[Pair, list[tuple[Tensor, Tensor]]]] = []
    for name, place in zip(row.theirs, _places(row, shape), strict=True):
        if name not in parts:
            continue
        pair = parts[name]
        if len(pair.up) != len(place):
            raise ValueError(f"{name!r} has an adapter of {len(pair.up)} rows, and {len(place)} rows itself.")
        same = next((b for b in blocks if _alike(b[0], pair)), None)
        if same is None:
            blocks.append((pair, [(place, pair.up)]))
        else:
            same[1].append((place, pair.up))
    up = blocks[0][0].up.new_zeros(shape[0], sum(len(pair.down) for pair, _ in blocks))
    first = 0
    for pair, pieces in blocks:
        for place, value in pieces:
            up[place, first : first + len(pair.down)] = value.to(up.dtype)
        first += len(pair.down)
    return Pair(torch.cat([pair.down.flatten(1) for pair, _ in blocks]).reshape(first, *blocks[0][0].down.shape[1:]), up,
                torch.cat([pair.scales for pair, _ in blocks]))  # fmt: skip


def _alike(a: Pair, b: Pair) -> bool:
    return a.down is b.down or (a.down.shape == b.down.shape and torch.equal(a.down, b.down) and torch.equal(a.scales, b.scales))


def read_pairs(
    targets: Mapping[str, Target], path: str | Path, config: Mapping[str, Any] | None = None, only: Sequence[str] | None = None
) -> dict[str, dict[str, Pair]]:
    """The pairs of a file: {component: {published weight: pair}}.

    Args:
        config: peft's adapter_config.json; by default the one beside the file, where there is one.
        only: components; those of others are passed over.

    Raises:
        ValueError: naming a tensor that fits no layer, with the nearest; or one that is no LoRA.
    """
    said = dict(peft_config(Path(path)) if config is None else config)
    weights = open_weights(path)
    if packed := weights.metadata.get("lora_adapter_metadata"):
        said |= _parsed(packed, path)
    made: dict[str, dict[str, Pair]] = {}
    for stem, entry in _entries(weights, path).items():
        component, layer = _component(stem, targets)
        if only is not None and component not in only:
            continue
        if component not in targets:
            raise ValueError(
                f"{path} adapts the {component} ({entry.names[0]!r}), and only {', '.join(targets)} is here; "
                f"leave it out by only={tuple(targets)}."
            )
        meant = targets[component].names.get(layer)
        if meant is None:
            near = difflib.get_close_matches(layer, list(targets[component].names), 1, 0)
            raise ValueError(
                f"{path} adapts {entry.names[0]!r}, which the {component} does not have; the nearest is {near[0]!r}."
            )
        pair = _pair(entry, *_rule(said, component, layer), f"{path}")
        held = made.setdefault(component, {})
        if isinstance(meant, str):
            found = {meant: pair}
        else:
            found = dict(zip(meant.theirs, _split(meant, pair, _joined_shape(meant, targets[component]), False), strict=True))
        if twice := sorted(set(found) & set(held)):
            raise ValueError(f"{path} adapts {twice[0]!r} twice, the second time by {entry.names[0]!r}.")
        held |= found
    return made


def _joined_shape(row: Row, where: Target) -> tuple[int, ...]:
    parts = [torch.empty(where.published[name], device="meta") for name in row.theirs]
    return tuple(row.move.load(parts).shape)


def _parsed(text: str, path: str | Path) -> dict[str, Any]:
    try:
        said = json.loads(text)
        if not isinstance(said, dict):
            raise TypeError
        return {str(k): v for k, v in said.items()}
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"{path} has damaged metadata (lora_adapter_metadata).") from None


def load_lora(
    targets: Mapping[str, Target],
    path: str | Path,
    strength: float = 1.0,
    name: str = "default",
    *,
    config: Mapping[str, Any] | None = None,
    only: Sequence[str] | None = None,
) -> dict[str, list[str]]:
    """Add the adapters of a file, frozen. `adapters.set_strengths` changes how much they count, `adapters.merge` adds them in.

    Args:
        targets: by component: unet or transformer, text_encoder, text_encoder_2.
        name: under which they are kept; several files can be there at once.
        config, only: as for `read_pairs`.

    Returns:
        Names of the layers, by component.

    Raises:
        ValueError: as `read_pairs`, or naming a layer whose shape does not fit; nothing is added then.
    """
    made: dict[str, dict[str, LoRA]] = {}
    for component, pairs in read_pairs(targets, path, config, only).items():
        where = targets[component]
        layers = adapters.layers(where.net)
        made[component] = {}
        for row in where.rows:
            if not any(n in pairs for n in row.theirs):
                continue
            layer = row.ours.removesuffix(".weight")
            try:
                pair = _join(row, pairs, where.shapes[row.ours])
                made[component][layer] = _adapter(layers[layer], pair, strength)
            except (ValueError, RuntimeError) as error:
                raise ValueError(f"{path}: {row.theirs[0]!r} of the {component}: {str(error).splitlines()[0]}") from None
    for component, found in made.items():
        adapters.attach(targets[component].net, found, name)
    return {component: list(found) for component, found in made.items()}


def _adapter(layer: adapters.Layer, pair: Pair, strength: float) -> LoRA:
    rank = len(pair.down)
    even = bool((pair.scales == pair.scales[0]).all())
    made = LoRA(layer, rank, float(pair.scales[0]) * rank if even else rank, scales=None if even else pair.scales)
    takes, given = made.down.weight.shape, pair.down.shape
    if pair.down.numel() != made.down.weight.numel():
        raise ValueError(f"the adapter's shape is {tuple(given)}, and the layer takes {tuple(takes)}.")
    made.down.weight.data.copy_(pair.down.reshape(takes))
    made.up.weight.data.copy_(pair.up.reshape(made.up.weight.shape))
    made.strength = float(strength)
    return made.requires_grad_(False)


def set_strengths(targets: Mapping[str, Target], strengths: Mapping[str, float]) -> None:
    """`adapters.set_strengths` on every target that has adapters of the names.

    Raises:
        ValueError: if none of them has.
    """
    for name, value in strengths.items():
        nets = [where.net for where in targets.values() if adapters.adapted(where.net, name)]
        for net in nets or [where.net for where in targets.values()][:1]:
            adapters.set_strengths(net, {name: value})


# Writing


def lora_tensors(
    targets: Mapping[str, Target],
    layout: str = "peft",
    name: str = "default",
    dtype: torch.dtype | None = None,
    original: bool | None = None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of adapters as a file has them, and its metadata.

    Args:
        layout: peft, or kohya.
        dtype: of the tensors; that of the adapters by default.
        original: kohya's layers by the names of the original file; by default where kohya's programs have them.

    Raises:
        ValueError: if no target has adapters of this name.
    """
    if layout not in ("peft", "kohya"):
        raise ValueError(f"layout is {layout!r}; there are peft and kohya.")
    tensors: dict[str, Tensor] = {}
    said: dict[str, Any] = {}
    two = "text_encoder_2" in targets or "transformer" in targets
    for component, where in targets.items():
        found = adapters.adapted(where.net, name)
        pairs: dict[str, Pair] = {}
        for row in where.rows:
            if adapter := found.get(row.ours.removesuffix(".weight")):
                parts = _split(row, _of(adapter), where.shapes[row.ours], True)
                live = [bool(p.up.ne(0).any()) for p in parts]  # a part that is zero beside others that are not had none
                pairs |= {n: p for n, p, some in zip(row.theirs, parts, live, strict=True) if some or not any(live)}
        if layout == "kohya" and (where.fused if original is None else original):
            named = {
                row.ours: (_join(row, pairs, shape), shape)
                for row in where.originals
                if any(n in pairs for n in row.theirs)
                for shape in (_joined_shape(row, where),)
            }
        else:
            named = {n: (p, where.published[n]) for n, p in pairs.items()}
        alphas: dict[str, float] = {}
        ranks: dict[str, int] = {}
        for weight, (pair, shape) in named.items():
            layer = weight.removesuffix(".weight")
            down, up, alpha = _written(pair, shape)
            if layout == "kohya":
                stem = _kohya(component, two) + layer.replace(".", "_")
                tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(alpha)}
            else:
                tensors |= {f"{component}.{layer}.lora_A.weight": down, f"{component}.{layer}.lora_B.weight": up}
            alphas[layer], ranks[layer] = alpha, len(down)
        if layout == "peft" and any(alphas[n] != ranks[n] for n in alphas):
            said |= _peft(component, alphas, ranks)
    if not tensors:
        raise ValueError(f"no adapters named {name!r} are here.")
    cast = {n: t.to(dtype or t.dtype).contiguous() for n, t in tensors.items()}
    return cast, {"format": "pt"} | ({"lora_adapter_metadata": json.dumps(said)} if said else {})


def save_lora(
    targets: Mapping[str, Target],
    path: str | Path,
    layout: str = "peft",
    name: str = "default",
    dtype: torch.dtype | None = None,
    original: bool | None = None,
) -> Path:
    """Write adapters as others read them. Arguments and errors as for `lora_tensors`."""
    return save(path, *lora_tensors(targets, layout, name, dtype, original))


def _of(adapter: LoRA) -> Pair:
    scales = torch.ones(adapter.rank, dtype=torch.float64) if adapter.scales is None else adapter.scales.double().cpu()
    down, up = adapter.down.weight.detach().cpu(), adapter.up.weight.detach().cpu()
    return Pair(down, up.flatten(1), scales * (adapter.alpha / adapter.rank))


def _written(pair: Pair, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, float]:
    """down and up of the shapes that the published layer has, and alpha."""
    rank, first = len(pair.down), float(pair.scales[0])
    down = pair.down
    if bool((pair.scales != first).any()):  # a file has one alpha for a layer; the rest goes into the matrix
        first = float(pair.scales.abs().max()) or 1.0
        down = down * (pair.scales / first).to(down.dtype).reshape(-1, *[1] * (down.ndim - 1))
    alpha = float(f"{first * rank:.6g}")
    return down.reshape(rank, *shape[1:]), pair.up.reshape(*pair.up.shape, *[1] * (len(shape) - 2)), alpha


def _kohya(component: str, two: bool) -> str:
    if component in _DENOISERS:
        return "lora_unet_"
    number = component.removeprefix("text_encoder").removeprefix("_") or ("1" if two else "")
    return f"lora_te{number}_"


def _peft(component: str, alphas: Mapping[str, float], ranks: Mapping[str, int]) -> dict[str, Any]:
    """What peft is told, in the form in which diffusers packs it."""
    rank, alpha = max(ranks.values()), next(iter(alphas.values()))
    said = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {n: r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {n: a for n, a in alphas.items() if a != alpha},
        "target_modules": sorted(alphas),
    }
    return {f"{component}.{key}": value for key, value in said.items()}
