"""The encoders of T5 and umT5, as transformers publishes them: those of SD3, FLUX, PixArt and of video models."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from langevin.networks.t5 import T5Block, T5Encoder
from langevin.zoo.family import Component, Config
from langevin.zoo.keys import STACK, KeyMap

# today's defaults of the published configuration; what does not change an encoder's outputs is not looked at
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "feed_forward_proj": "relu",
    "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
}  # fmt: skip
NEWER = {"vocab_size": 250112, "num_heads": 6, "num_layers": 8, "d_ff": 1024, "feed_forward_proj": "gated-gelu"}
"""umT5's, where they differ."""
PROJECTIONS = {"relu": ("relu", False), "gelu": ("gelu", False), "gated-gelu": ("gelu", True), "gated-relu": ("relu", True)}


def _build(everywhere: bool) -> Any:
    def build(config: Config) -> nn.Module:
        c = {**DEFAULTS, **(NEWER if everywhere else {})}
        c = {name: config.get(name, default) for name, default in c.items()}
        if c["feed_forward_proj"] not in PROJECTIONS:
            raise ValueError(f"feed_forward_proj is {c['feed_forward_proj']!r}; this encoder knows {', '.join(PROJECTIONS)}.")
        activation, gated = PROJECTIONS[c["feed_forward_proj"]]
        return T5Encoder(
            c["vocab_size"],
            c["d_model"],
            c["num_layers"],
            c["num_heads"],
            c["d_kv"],
            c["d_ff"],
            activation,
            gated,
            c["relative_attention_num_buckets"],
            c["relative_attention_max_distance"],
            c["layer_norm_epsilon"],
            everywhere,
        )

    return build


def _keys(config: Config, net: nn.Module) -> KeyMap:
    assert isinstance(net, T5Encoder)
    first = net.blocks[0]
    assert isinstance(first, T5Block)
    layer = r"encoder.block.\1.layer."
    return KeyMap(
        renames=(
            (r"^token\.", "shared."),
            (r"^norm\.", "encoder.final_layer_norm."),
            (r"^blocks\.(\d+)\.norm1\.", layer + "0.layer_norm."),
            (r"^blocks\.(\d+)\.norm2\.", layer + "1.layer_norm."),
            (r"^blocks\.(\d+)\.qkv\.", layer + "0.SelfAttention.qkv."),
            (r"^blocks\.(\d+)\.out\.", layer + "0.SelfAttention.o."),
            (r"^blocks\.(\d+)\.positions\.", layer + "0.SelfAttention.relative_attention_bias."),
            (r"^blocks\.(\d+)\.gate\.", layer + "1.DenseReluDense.wi_0."),
            (r"^blocks\.(\d+)\.grow\.", layer + ("1.DenseReluDense.wi." if first.gate is None else "1.DenseReluDense.wi_1.")),
            (r"^blocks\.(\d+)\.shrink\.", layer + "1.DenseReluDense.wo."),
        ),
        joins=((r"(.*\.SelfAttention\.)qkv\.weight", (r"\1q.weight", r"\1k.weight", r"\1v.weight"), STACK),),
        ignored=(
            (r"encoder\.embed_tokens\.weight", "a copy of the embedding"),
            (r"decoder\..*|lm_head\.weight", "the decoder's"),
        ),
    )


COMPONENTS = (
    Component("T5EncoderModel", _build(False), _keys, islands=(r"blocks\.\d+\.shrink\.weight",)),
    Component("UMT5EncoderModel", _build(True), _keys, islands=(r"blocks\.\d+\.shrink\.weight",)),
)
