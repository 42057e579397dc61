"""Text encoders of published models: CLIP, T5 and umT5 as modules of our own, others through transformers.

CLIP and T5 are a hundred lines, and importing them from transformers takes longer than importing torch: a picture should not
wait for that. Their weights are assigned from tensors that are given, every one of them, or refused by name.

    B batch, L tokens, D features, H heads
"""

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.header import read_header
from langevin.tensors import load

Config = Mapping[str, Any]


@dataclass(frozen=True)
class States:
    """What an encoder says.

    Args:
        hidden: (B, L, D) before the first layer and after each.
        last: the last of them after the final norm.
        pooled: (B, D) `last` at the end of the text (CLIP).
        embeds: `pooled` projected, (B, P).
    """

    hidden: tuple[Tensor, ...]
    last: Tensor
    pooled: Tensor | None = None
    embeds: Tensor | None = None


class Encoder(nn.Module):
    """`encoder(ids, mask) -> States`; ids (B, L) int64, mask (B, L) bool, True where attended to.

    Attributes:
        names: (pattern, replacement), in order, from our parameters to the published ones.
        ignored: of published tensors that hold nothing that is learned.
        width: D.
    """

    names: tuple[tuple[str, str], ...] = ()
    ignored: str = r".*position_ids"
    width: int

    def norm_of(self, hidden: Tensor) -> Tensor:
        """The final norm, for hidden states that are taken from further down."""
        raise NotImplementedError

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> States:
        raise NotImplementedError


# CLIP


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in ACTIVATIONS:
        raise ValueError(f"hidden_act is {name!r}; there are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


class _Block(nn.Module):
    """Attention and a feed-forward of CLIP, each after a norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.heads, self.act = config["num_attention_heads"], _activation(config["hidden_act"])
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=config["layer_norm_eps"]) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        h = self.norm1(x)
        q, k, v = (part(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal and mask is None)
        x = x + self.out(h.transpose(1, 2).flatten(2))
        return x + self.down(self.act(self.up(self.norm2(x))))


_CLIP_NAMES = (
    (r"^layers\.", "encoder.layers."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.query\.", ".self_attn.q_proj."),
    (r"\.key\.", ".self_attn.k_proj."),
    (r"\.value\.", ".self_attn.v_proj."),
    (r"\.out\.", ".self_attn.out_proj."),
    (r"\.up\.", ".mlp.fc1."),
    (r"\.down\.", ".mlp.fc2."),
)
_CLIP = {"hidden_size": 512, "intermediate_size": 2048, "projection_dim": 512, "num_hidden_layers": 12, "num_attention_heads": 8,
         "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}  # fmt: skip


class CLIPText(Encoder):
    """CLIP's causal text transformer (2103.00020), of OpenAI and of OpenCLIP."""

    names = (
        *_CLIP_NAMES,
        (r"^(token|position)\.", r"embeddings.\1_embedding."),
        (r"^norm\.", "final_layer_norm."),
        (r"^projection\.", "text_projection."),
        (r"^(?!text_projection)", "text_model."),
    )

    def __init__(self, config: Config) -> None:
        super().__init__()
        config = {**_CLIP, "vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407, **config}
        self.width = width = config["hidden_size"]
        self.eos = config["eos_token_id"]
        self.token, self.position = (nn.Embedding(config[n], width) for n in ("vocab_size", "max_position_embeddings"))
        self.layers = nn.ModuleList(_Block(config) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.LayerNorm(width, eps=config["layer_norm_eps"])
        projected = "CLIPTextModelWithProjection" in (config.get("architectures") or [])
        self.projection = nn.Linear(width, config["projection_dim"], bias=False) if projected else None

    def norm_of(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> States:
        length = ids.shape[1]
        x = self.token(ids) + self.position.weight[:length]
        if mask is not None:
            ahead = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
            mask = ahead & mask[:, None, None, :].bool()
        hidden = [x]
        for layer in self.layers:
            hidden.append(layer(hidden[-1], mask, True))
        last = self.norm(hidden[-1])
        # published configurations say 2, an id that is no eos; the pool is then at the largest id, which eos has
        at = ids.argmax(1) if self.eos == 2 else (ids == self.eos).int().argmax(1)
        pooled = last[torch.arange(len(ids), device=ids.device), at]
        return States(tuple(hidden), last, pooled, None if self.projection is None else self.projection(pooled))


class CLIPVision(nn.Module):
    """CLIP's picture transformer: (B, 3, S, S), normalised, -> `States` with the class token first."""

    names = (
        *_CLIP_NAMES,
        (r"^(patch|position)\.", r"embeddings.\1_embedding."),
        (r"^first$", "embeddings.class_embedding"),
        (r"^norm_in\.", "pre_layrnorm."),
        (r"^norm\.", "post_layernorm."),
        (r"^projection\.", "visual_projection."),
        (r"^(?!visual_projection)", "vision_model."),
    )
    ignored = r".*position_ids"

    def __init__(self, config: Config) -> None:
        super().__init__()
        config = {**_CLIP, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "image_size": 224,
                  "patch_size": 32, "num_channels": 3, **config}  # fmt: skip
        width, size, patch = config["hidden_size"], config["image_size"], config["patch_size"]
        self.width, self.size = width, size
        self.first = nn.Parameter(torch.zeros(width))
        self.patch = nn.Conv2d(config["num_channels"], width, patch, patch, bias=False)
        self.position = nn.Embedding((size // patch) ** 2 + 1, width)
        self.norm_in, self.norm = (nn.LayerNorm(width, eps=config["layer_norm_eps"]) for _ in range(2))
        self.layers = nn.ModuleList(_Block(config) for _ in range(config["num_hidden_layers"]))
        projected = "CLIPVisionModelWithProjection" in (config.get("architectures") or [])
        self.projection = nn.Linear(width, config["projection_dim"], bias=False) if projected else None

    def forward(self, pictures: Tensor) -> States:
        if pictures.shape[-2:] != (self.size, self.size):
            raise ValueError(f"pictures are {tuple(pictures.shape[-2:])}; this encoder sees {self.size} x {self.size} pixels.")
        x = self.patch(pictures).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), 1, -1), x], 1) + self.position.weight
        hidden = [self.norm_in(x)]
        for layer in self.layers:
            hidden.append(layer(hidden[-1], None, False))
        pooled = self.norm(hidden[-1][:, 0])
        return States(tuple(hidden), hidden[-1], pooled, None if self.projection is None else self.projection(pooled))


# T5


class _RMS(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * (wide.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return self.weight * wide.to(self.weight.dtype)


class _T5Block(nn.Module):
    """Attention without a scale, and a feed-forward, each after a norm by root mean square; no biases."""

    def __init__(self, config: Config, biased: bool) -> None:
        super().__init__()
        width, inner, self.heads = config["d_model"], config["d_ff"], config["num_heads"]
        across = self.heads * config["d_kv"]
        gate, _, act = config["feed_forward_proj"].rpartition("gated-")
        gated = "gated-" in config["feed_forward_proj"]
        self.act = _activation("gelu_new" if gated and act == "gelu" else act or gate)
        self.norm1, self.norm2 = (_RMS(width, config["layer_norm_epsilon"]) for _ in range(2))
        self.query, self.key, self.value = (nn.Linear(width, across, bias=False) for _ in range(3))
        self.out = nn.Linear(across, width, bias=False)
        self.bias = nn.Embedding(config["relative_attention_num_buckets"], self.heads) if biased else None
        self.gate = nn.Linear(width, inner, bias=False) if gated else None
        self.up, self.down = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (part(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)
        x = x + self.out(h.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        h = self.up(h) if self.gate is None else self.act(self.gate(h)) * self.up(h)
        h = self.act(h) if self.gate is None else h
        # in half precision this layer stays in float32, where its sums fit
        return x + self.down(h.to(self.down.weight.dtype)).to(x.dtype)


class T5(Encoder):
    """T5's encoder (1910.10683; v1.1), and umT5's, which has positions in every layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        config = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "vocab_size": 32128,
                  "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
                  "feed_forward_proj": "relu", **config}  # fmt: skip
        everywhere = config.get("model_type") == "umt5"
        self.width, self.span = config["d_model"], config["relative_attention_max_distance"]
        self.token = nn.Embedding(config["vocab_size"], self.width)
        self.layers = nn.ModuleList(_T5Block(config, everywhere or i == 0) for i in range(config["num_layers"]))
        self.norm = _RMS(self.width, config["layer_norm_epsilon"])
        wi = "wi_1" if "gated-" in config["feed_forward_proj"] else "wi"
        self.names = (
            (r"^token\.", "shared."),
            (r"^norm\.", "encoder.final_layer_norm."),
            (r"^layers\.", "encoder.block."),
            (r"\.norm1\.", ".layer.0.layer_norm."),
            (r"\.norm2\.", ".layer.1.layer_norm."),
            (r"\.query\.", ".layer.0.SelfAttention.q."),
            (r"\.key\.", ".layer.0.SelfAttention.k."),
            (r"\.value\.", ".layer.0.SelfAttention.v."),
            (r"\.out\.", ".layer.0.SelfAttention.o."),
            (r"\.bias\.", ".layer.0.SelfAttention.relative_attention_bias."),
            (r"\.gate\.", ".layer.1.DenseReluDense.wi_0."),
            (r"\.up\.", f".layer.1.DenseReluDense.{wi}."),
            (r"\.down\.", ".layer.1.DenseReluDense.wo."),
        )
        # copies of the embedding, and the decoder's half of files that hold both
        self.ignored = r"encoder\.embed_tokens\.weight|decoder\..*|lm_head\.weight"

    def norm_of(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden)

    def _positions(self, length: int, device: torch.device) -> Tensor:
        """(L, L) bucket of each offset: exact when small, logarithmic beyond."""
        first = self.layers[0].bias
        buckets = (first.num_embeddings if isinstance(first, nn.Embedding) else 0) // 2
        place = torch.arange(length, device=device)
        offset = place[None, :] - place[:, None]
        far, exact = offset.abs(), buckets // 2
        grown = (far.clamp(min=1).float() / exact).log() / math.log(self.span / exact) * (buckets - exact)
        bucket = torch.where(far < exact, far, (exact + grown.long()).clamp(max=buckets - 1))
        return bucket + buckets * (offset > 0)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> States:
        place = self._positions(ids.shape[1], ids.device)
        x = self.token(ids)
        hidden, bias = [x], None
        for layer in self.layers:
            if isinstance(layer.bias, nn.Embedding):
                bias = layer.bias(place).permute(2, 0, 1)[None]
                if mask is not None:
                    bias = bias + torch.where(mask[:, None, None, :].bool(), 0.0, torch.finfo(bias.dtype).min)
            hidden.append(layer(hidden[-1], bias))
        last = self.norm(hidden[-1])
        return States((*hidden[:-1], last), last)


# Language models


class Language(Encoder):
    """The hidden states of a language model (Gemma 2, Llama, Qwen), by transformers' own module."""

    names = ((r"^model\.", "model."),)
    ignored = r".*rotary_emb\.inv_freq|lm_head\.weight|.*position_ids"

    def __init__(self, config: Config) -> None:
        super().__init__()
        try:
            import transformers
        except ImportError:
            raise ImportError("this text encoder needs transformers; install the extra: pip install 'langevin[text]'.") from None
        kind = config.get("model_type")
        if kind not in LANGUAGES:
            raise ValueError(f"the text encoder's model_type is {kind!r}; there are {', '.join([*KINDS, *LANGUAGES])}.")
        made = transformers.AutoConfig.for_model(kind, **{k: v for k, v in config.items() if k != "model_type"})
        self.model = transformers.AutoModel.from_config(made)
        self.width = made.hidden_size
        self.names = ()

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> States:
        said = self.model(ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        return States(tuple(said.hidden_states), said.last_hidden_state)


KINDS: dict[str, Callable[[Config], nn.Module]] = {
    "clip_text_model": CLIPText, "clip_vision_model": CLIPVision, "t5": T5, "umt5": T5,
}  # fmt: skip
LANGUAGES = ("gemma", "gemma2", "llama", "qwen2", "qwen3")


# Loading


def build(config: Config) -> nn.Module:
    """The encoder of a config.json, with weights of no value."""
    kind = config.get("model_type")
    if kind == "clip":  # the configuration of a whole CLIP, whose text half is meant
        raise ValueError("the configuration is of a whole CLIP; give that of its text model, text_config.")
    with torch.device("meta") if kind in KINDS else torch.device("cpu"):
        return KINDS[kind](config) if kind in KINDS else Language(config)


def published(net: nn.Module, name: str) -> str:
    """The published name of one of our parameters."""
    for pattern, to in getattr(net, "names", ()):
        name = re.sub(pattern, to, name, count=1)
    return name


def assign(
    net: nn.Module,
    names: Iterable[str],
    read: Callable[[str], Tensor],
    what: str,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> nn.Module:
    """Give an encoder the tensors of a file. Names count with and without `text_model.`, `vision_model.` or `model.`.

    Args:
        names: of the file's tensors. read: one of them.
        dtype: of the weights afterwards; the file's by default. T5's last projections stay in float32 instead of float16.

    Raises:
        ValueError: naming what is missing, left over, or of another shape.
    """
    ours = dict(net.state_dict(keep_vars=True))
    wanted = {_bare(published(net, name)): name for name in ours}
    stored = {_bare(name): name for name in names}
    missing = sorted(set(wanted) - set(stored))
    ignored = re.compile(getattr(net, "ignored", r"(?!)"))
    left = sorted(n for n in set(stored) - set(wanted) if not ignored.fullmatch(stored[n]) and not ignored.fullmatch(n))
    for bad, others, verb in ((missing, left or list(stored), "lacks"), (left, list(wanted), "holds, and nothing here uses,")):
        if bad:
            near = difflib.get_close_matches(bad[0], others, 1, 0)
            more = f" and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
            raise ValueError(f"{what} {verb} {bad[0]!r}{more}" + (f"; the nearest name is {near[0]!r}." if near else "."))
    made = {}
    for key, name in wanted.items():
        value = read(stored[key])
        if value.shape != ours[name].shape:
            raise ValueError(f"{what}: {stored[key]!r} has the shape {tuple(value.shape)}, where the configuration makes it "
                             f"{tuple(ours[name].shape)}; the weights are of another model than the configuration.")  # fmt: skip
        wide = dtype == torch.float16 and isinstance(net, T5) and name.endswith("down.weight")
        to = torch.float32 if wide else dtype
        made[name] = value.to(device, to if value.is_floating_point() else None)
    net.load_state_dict(made, assign=True)
    return net.eval().requires_grad_(False)


def _bare(name: str) -> str:
    return re.sub(r"^(text_model|vision_model|model)\.", "", name)


def open_encoder(folder: str | Path, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> nn.Module:
    """The encoder of a folder with config.json and model.safetensors.

    Raises:
        ValueError: if it is not there, or does not fit its configuration.
    """
    folder = Path(folder)
    path = folder / "model.safetensors"
    if not (folder / "config.json").is_file() or not path.is_file():
        raise ValueError(f"{folder} has no config.json with a model.safetensors; give the folder of a text encoder.")
    net = build(json.loads((folder / "config.json").read_text()))
    names = [e.name for e in read_header(path).entries]
    tensors = load(path)
    return assign(net, names, tensors.__getitem__, str(path), dtype, device)
