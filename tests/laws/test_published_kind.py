"""A network of one's own is published as the one class that has words for it."""

import pytest
from torch import nn

from langevin import networks
from langevin.networks.autoencoder import Autoencoder, Half, Plain, Tiny
from langevin.networks.blocks import fixed_groups
from langevin.zoo.saving import save


def plain(**options):
    return Autoencoder(Half(Plain(4), (8, 16), (1, 1)), Half(Plain(4), (8, 16), (2, 2)), 4, 3, 3, **options)


NETWORKS = {
    "AutoencoderKL": lambda: plain(gaussian=True),
    "VQModel": lambda: plain(codes=8, project=(True, True)),
    "AutoencoderTiny": lambda: Autoencoder(Half(Tiny(), (8, 8), (1, 1)), Half(Tiny(), (8, 8), (1, 1)), 4, 3, 3),
    "UNet2DModel": lambda: networks.UNet(3, 8, (1, 2), 1, head_width=8, norm=fixed_groups(4, 1e-6)),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_of_ones_own_is_of_one_class(kind, tmp_path):
    save(NETWORKS[kind](), tmp_path)
    assert f'"_class_name": "{kind}"' in (tmp_path / "config.json").read_text()


def test_what_no_class_describes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is a Linear, which has no published form; it can be saved by"):
        save(nn.Linear(2, 2), tmp_path)
