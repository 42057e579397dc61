"""Texts: as points in a space of words, and as categories."""

from collections.abc import Callable

from langevin.config import TrainConfig
from langevin.recipes.config import (
    CategoricalConfig,
    EmbeddedConfig,
    Recipe,
    SampleConfig,
    SentencesData,
    SequenceConfig,
    TextData,
    VectorsConfig,
)
from langevin.recipes.objectives import DenoisingConfig, EmbeddingConfig, MaskingConfig
from langevin.recipes.ready.variant import but


def e2e_embedding() -> Recipe:
    """Restaurant descriptions as points of words: Diffusion-LM."""
    return Recipe(
        name="e2e-embedding",
        about="E2E restaurant descriptions by Diffusion-LM: words as learned points, tied rounding, the sqrt schedule",
        expects="rounding at the nearest point for 98.9 % of tokens (at least 98); in 50 steps 71 % of pairs of neighbouring "
        "words known to training texts (98 % of held-out ones); 20 minutes on 2 cores",
        data=SentencesData(path=("data/e2e_a.txt", "data/e2e_b.txt"), key="||", length=48),
        process=EmbeddedConfig(),
        network=VectorsConfig(),
        objective=EmbeddingConfig(),
        train=TrainConfig(steps=6000, batch=64, lr=2e-3, ema=0.995),
        sample=SampleConfig(plan="consistency:200"),
    )


def _so_far(bits: str) -> str:
    return f"not trained to its end yet; in 14 minutes of one core, by windows of 128, bits per character {bits}"


def shakespeare() -> Recipe:
    """Characters of Shakespeare, unmasked in any order."""
    return Recipe(
        name="shakespeare",
        about="characters of Shakespeare by masked diffusion: written in any order, blanks filled with a view of both sides",
        expects=_so_far("2.82, at most, after 1,400 updates"),
        data=TextData(path=("data/tinyshakespeare.txt",), length=256, stride=1),
        process=CategoricalConfig(limit="mask", prediction="subs"),
        network=SequenceConfig(width=192, depth=4, heads=6),
        objective=MaskingConfig(),
        train=TrainConfig(steps=4000, batch=32, optimiser="muon", lr=5e-3, ema=0.998, weight_decay=0.05),
        sample=SampleConfig(plan="ddpm:128"),
    )


def shakespeare_blocks() -> Recipe:
    """The same in blocks of 16, from left to right."""
    return but(
        shakespeare(),
        name="shakespeare-blocks",
        about="the same in blocks of 16 characters, each written at once after those before it (block diffusion); any length",
        expects=_so_far("2.92, at most, after 650 updates"),
        network=SequenceConfig(width=192, depth=4, heads=6, block=16),
        sample=SampleConfig(plan="ddpm:16"),
    )


def shakespeare_autoregressive() -> Recipe:
    """The same, one character after the other: what diffusion is compared with."""
    return but(
        shakespeare(),
        name="shakespeare-autoregressive",
        about="the same network, one character after the other: blocks of 1, where the bound is the likelihood itself",
        expects=_so_far("2.08 after 1,500 updates"),
        network=SequenceConfig(width=192, depth=4, heads=6, block=1),
        sample=SampleConfig(plan="ddpm:1"),
    )


def shakespeare_uniform() -> Recipe:
    """The same with tokens replaced rather than masked."""
    return but(
        shakespeare(),
        name="shakespeare-uniform",
        about="the same with characters replaced by others instead of masked, which may be taken back as often as one likes",
        expects=_so_far("2.96, at most, after 1,800 updates"),
        process=CategoricalConfig(limit="uniform", prediction="logits"),
        network=SequenceConfig(width=160, depth=4, heads=5, timed=True),  # as large as the others with what it is told of levels
        objective=DenoisingConfig(weight="elbo", drop=0.0),
        sample=SampleConfig(plan="ddpm:128"),
    )


def text8_like() -> Recipe:
    """Any text as a to z and spaces."""
    return but(
        shakespeare(),
        name="text8-like",
        about="any text as a to z and single spaces, like text8",
        expects="depends on the text; bits per character are printed beside those of counted patterns of 5",
        data=TextData(path=("data/text",), clean="plain", length=256, stride=1),
        train=TrainConfig(steps=20_000, batch=64, optimiser="muon", lr=5e-3, ema=0.999, weight_decay=0.05),
        network=SequenceConfig(width=256, depth=6, heads=8),
    )


def e2e() -> Recipe:
    """Restaurant descriptions in byte pairs, packed one after the other."""
    return but(
        shakespeare(),
        name="e2e",
        about="E2E restaurant descriptions in 512 byte pairs, packed one after the other, by masked diffusion",
        expects="not trained to its end yet",
        data=TextData(path=("data/e2e_a.txt", "data/e2e_b.txt"), lines=True, key="||", alphabet="pieces", length=128, stride=16),
        train=TrainConfig(steps=3000, batch=32, optimiser="muon", lr=5e-3, ema=0.998, weight_decay=0.05),
        sample=SampleConfig(plan="ddpm:64"),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "e2e-embedding": e2e_embedding,
    "shakespeare": shakespeare,
    "shakespeare-blocks": shakespeare_blocks,
    "shakespeare-autoregressive": shakespeare_autoregressive,
    "shakespeare-uniform": shakespeare_uniform,
    "text8-like": text8_like,
    "e2e": e2e,
}
