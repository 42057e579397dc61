"""What is said of a likelihood in words."""

import math

import pytest
import torch

from langevin.recipes.likelihood import Found


def test_bits_are_per_character_of_the_text_where_tokens_are_several():
    found = Found(torch.tensor([-4.0, -6.0]) * math.log(2), 0.0, 2, None, "a bound", density=False, tokens=0.5)
    said = str(found)
    assert said.startswith("1.2500 +- 0.2500 bits per character (2.5000 +- 0.5000 bits per token, 1.7329 +- 0.3466 nats)\n")
    assert found.said()["bits_per_character"] == pytest.approx(1.25)


def test_bits_of_values_are_told_apart_from_nats_of_their_density():
    said = str(Found(torch.zeros(2), 0.0, 4, 0.25, "the flow"))
    assert said.startswith("2.0000 +- 0.0000 bits per dimension of values on a grid of 0.25 (their density: -0.0000")
