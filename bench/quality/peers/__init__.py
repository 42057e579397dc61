"""The samplers that are compared, one module each."""

import importlib

from quality.peers.base import Peer

PEERS = {
    "diffusers": "quality.peers.diffusers_peer",
    "k_diffusion": "quality.peers.k_diffusion_peer",
    "azula": "quality.peers.azula_peer",
    "ode": "quality.peers.ode_peer",
    "langevin": "quality.langevin_peer",
}


def load(name: str) -> Peer:
    """The peer of that name; ImportError where its library is not installed."""
    peer: Peer = importlib.import_module(PEERS[name])  # type: ignore[assignment]
    return peer
