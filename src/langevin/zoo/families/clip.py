"""CLIP's text encoders, as transformers publishes them: those of Stable Diffusion 1 and 2, SDXL, SD3 and FLUX."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from langevin.networks.text import PictureEncoder, TextBlock, TextEncoder
from langevin.zoo.family import Component, Config, of_kind
from langevin.zoo.keys import STACK, KeyMap

# today's defaults of the published configuration; what does not change the outputs is not looked at
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8,
    "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": 512,
    "eos_token_id": 49407,
}  # fmt: skip
LEGACY_END = 2
"""What published configurations say of the end of a text, wrongly; it then stands where the id is largest."""


def _build(projected: bool) -> Any:
    def build(config: Config) -> nn.Module:
        c = {name: config.get(name, default) for name, default in DEFAULTS.items()}
        if c["layer_norm_eps"] != 1e-5:
            raise ValueError(f"layer_norm_eps is {c['layer_norm_eps']}, and this encoder has 1e-05.")
        return TextEncoder(
            c["vocab_size"],
            c["hidden_size"],
            c["num_hidden_layers"],
            c["num_attention_heads"],
            c["max_position_embeddings"],
            c["intermediate_size"],
            c["hidden_act"],
            c["projection_dim"] if projected else None,
            None if c["eos_token_id"] == LEGACY_END else c["eos_token_id"],
        )

    return build


def config(net: nn.Module) -> dict[str, Any]:
    """The configuration to publish a network with."""
    net = of_kind(net, TextEncoder)
    first = net.blocks[0]
    assert isinstance(first, TextBlock)
    name = "CLIPTextModel" if net.project is None else "CLIPTextModelWithProjection"
    said = {
        "architectures": [name], "model_type": "clip_text_model", "vocab_size": net.token.num_embeddings,
        "hidden_size": net.width, "intermediate_size": first.grow.out_features, "num_hidden_layers": len(net.blocks),
        "num_attention_heads": first.heads, "max_position_embeddings": net.length,
        "hidden_act": first.activation, "layer_norm_eps": 1e-5, "eos_token_id": LEGACY_END if net.end is None else net.end,
    }  # fmt: skip
    return said if net.project is None else {**said, "projection_dim": net.project.out_features}


def _keys(config: Config, net: nn.Module) -> KeyMap:
    layer = r"text_model.encoder.layers.\1."
    return KeyMap(
        renames=(
            (r"^token\.", "text_model.embeddings.token_embedding."),
            (r"^position$", "text_model.embeddings.position_embedding.weight"),
            (r"^norm\.", "text_model.final_layer_norm."),
            (r"^project\.", "text_projection."),
            (r"^blocks\.(\d+)\.norm(\d)\.", layer + r"layer_norm\2."),
            (r"^blocks\.(\d+)\.grow\.", layer + "mlp.fc1."),
            (r"^blocks\.(\d+)\.shrink\.", layer + "mlp.fc2."),
            (r"^blocks\.(\d+)\.out\.", layer + "self_attn.out_proj."),
            (r"^blocks\.(\d+)\.qkv\.", layer + "self_attn.qkv."),
        ),
        joins=((r"(.*\.self_attn\.)qkv\.(weight|bias)", (r"\1q_proj.\2", r"\1k_proj.\2", r"\1v_proj.\2"), STACK),),
        aliases=((r"^(embeddings|encoder|final_layer_norm)\.", r"text_model.\1."),),
        ignored=((r"text_model\.embeddings\.position_ids", "the numbers from 0 on"),),
    )


def _build_pictures(projected: bool) -> Any:
    def build(config: Config) -> nn.Module:
        c = {**DEFAULTS, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "image_size": 224,
             "patch_size": 32, "num_channels": 3}  # fmt: skip
        c = {name: config.get(name, default) for name, default in c.items()}
        if c["layer_norm_eps"] != 1e-5:
            raise ValueError(f"layer_norm_eps is {c['layer_norm_eps']}, and this encoder has 1e-05.")
        return PictureEncoder(
            c["image_size"], c["patch_size"], c["num_channels"], c["hidden_size"], c["num_hidden_layers"],
            c["num_attention_heads"], c["intermediate_size"], c["hidden_act"], c["projection_dim"] if projected else None,
        )  # fmt: skip

    return build


def _picture_keys(config: Config, net: nn.Module) -> KeyMap:
    text = _keys(config, net)
    return KeyMap(
        renames=(
            (r"^first$", "vision_model.embeddings.class_embedding"),
            (r"^patch\.", "vision_model.embeddings.patch_embedding."),
            (r"^norm_in\.", "vision_model.pre_layrnorm."),
            (r"^norm\.", "vision_model.post_layernorm."),
            (r"^project\.", "visual_projection."),
            *text.renames,
            (r"^text_model\.", "vision_model."),
        ),
        joins=text.joins,
        aliases=((r"^(embeddings|encoder|pre_layrnorm|post_layernorm)\.", r"vision_model.\1."),),
        ignored=((r"vision_model\.embeddings\.position_ids", "the numbers from 0 on"),),
    )


COMPONENTS = (
    Component("CLIPTextModel", _build(False), _keys, config),
    Component("CLIPTextModelWithProjection", _build(True), _keys, config),
    Component("CLIPVisionModel", _build_pictures(False), _picture_keys),
    Component("CLIPVisionModelWithProjection", _build_pictures(True), _picture_keys),
)
