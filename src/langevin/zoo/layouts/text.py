"""Text encoders inside single files: CLIP under the names of transformers, and open_clip's own."""

from typing import Any

from langevin.zoo.keys import STACK, TRANSPOSE
from langevin.zoo.layouts.table import Config, Line, Shapes, Table, channels, count

IGNORED = (
    (r"(text_model\.)?embeddings\.position_ids", "the numbers 0, 1, 2, ..."),
    (r"logit_scale", "of the contrastive training"),
    (r"attn_mask", "the causal mask, which is known"),
)
_HERE = "transformer.resblocks.{i}"
_THERE = "text_model.encoder.layers.{i}"


def clip_table(config: Config) -> Table:
    """CLIPTextModel, with or without a projection: the names are the published ones."""
    return Table(
        (Line("text_model.{rest}", "text_model.{rest}"), Line("text_projection.weight", "text_projection.weight")), {}, IGNORED
    )


def open_clip_table(config: Config, penultimate: bool = False) -> Table:
    """The text half of open_clip.

    Args:
        penultimate: the last layer and the projection are not used (Stable Diffusion 2).
    """
    parts = tuple(f"{_THERE}.self_attn.{p}_proj" for p in "qkv")
    lines = [
        Line("positional_embedding", "text_model.embeddings.position_embedding.weight"),
        Line("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
        Line("ln_final.{leaf}", "text_model.final_layer_norm.{leaf}"),
        Line("text_projection", "text_projection.weight", TRANSPOSE),
        *(Line(f"{_HERE}.attn.in_proj_{leaf}", tuple(f"{p}.{leaf}" for p in parts), STACK) for leaf in ("weight", "bias")),
        *(
            Line(f"{_HERE}.{ours}.{{leaf}}", f"{_THERE}.{theirs}.{{leaf}}")
            for ours, theirs in (
                ("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
            )
        ),
    ]  # fmt: skip
    if not penultimate:
        return Table(lines, {}, IGNORED)
    last = config["num_hidden_layers"]
    beyond = (rf"transformer\.resblocks\.{last}\..*", "the last layer, whose output this model does not use")
    return Table(
        lines, {}, (*IGNORED, beyond, (r"text_projection", "the projection of pooled texts, which this model does not use"))
    )


def t5_table(config: Config) -> Table:
    """T5EncoderModel: the names are the published ones."""
    return Table(
        (Line("shared.weight", "shared.weight"), Line("encoder.{rest}", "encoder.{rest}")),
        {},
        ((r"encoder\.embed_tokens\.weight", "a copy of shared.weight"),),
    )


def _clip(width: int, layers: int, given: Config, **more: Any) -> dict[str, Any]:
    """What is common to all published ones. That the end of a text is the largest id is what eos_token_id 2 stands for."""
    made = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(width // 64, 1),
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "model_type": "clip_text_model",
    }
    return {**made, **more, **given}


def clip_config(shapes: Shapes, given: Config, act: str = "quick_gelu") -> dict[str, Any]:
    """CLIPTextModel, or CLIPTextModelWithProjection where the projection is there."""
    tokens = "text_model.embeddings.token_embedding.weight"
    width = channels(shapes, tokens, 1)
    projected = "text_projection.weight" in shapes
    return _clip(
        width,
        count(shapes, "text_model.encoder.layers.{}."),
        given,
        architectures=["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
        vocab_size=channels(shapes, tokens),
        max_position_embeddings=channels(shapes, "text_model.embeddings.position_embedding.weight"),
        intermediate_size=channels(shapes, "text_model.encoder.layers.0.mlp.fc1.weight"),
        projection_dim=shapes["text_projection.weight"][0] if projected else width,
        hidden_act=act,
    )


def open_clip_config(shapes: Shapes, given: Config, penultimate: bool = False) -> dict[str, Any]:
    """CLIPTextModelWithProjection; CLIPTextModel of one layer less where that is `penultimate`."""
    width = channels(shapes, "token_embedding.weight", 1)
    layers = count(shapes, "transformer.resblocks.{}.")
    return _clip(
        width,
        layers - 1 if penultimate else layers,
        given,
        architectures=["CLIPTextModel" if penultimate else "CLIPTextModelWithProjection"],
        vocab_size=channels(shapes, "token_embedding.weight"),
        max_position_embeddings=channels(shapes, "positional_embedding"),
        intermediate_size=channels(shapes, "transformer.resblocks.0.mlp.c_fc.weight"),
        projection_dim=width if penultimate else channels(shapes, "text_projection", 1),
        hidden_act="gelu",
    )


def t5_config(shapes: Shapes, given: Config) -> dict[str, Any]:
    """T5EncoderModel, version 1.1."""
    block = "encoder.block.0.layer.0.SelfAttention"
    buckets, heads = (channels(shapes, f"{block}.relative_attention_bias.weight", axis) for axis in (0, 1))
    inner = channels(shapes, f"{block}.q.weight")
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": channels(shapes, "shared.weight"),
        "d_model": channels(shapes, "shared.weight", 1),
        "d_kv": inner // heads,
        "num_heads": heads,
        "d_ff": channels(shapes, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"),
        "num_layers": count(shapes, "encoder.block.{}."),
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6,
        "is_encoder_decoder": False,
        **given,
    }
