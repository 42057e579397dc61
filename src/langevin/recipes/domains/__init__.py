"""What differs between kinds of data: how it is read, which networks fit it, how samples are shown and judged.

One object for each domain, found by the kind of a recipe's data. Everything else of a run is the same for all of them.
"""

from importlib import import_module

from langevin.recipes import config as c
from langevin.recipes.domains.base import Asked, Domain

__all__ = ["Asked", "Domain", "domain_of"]

# modules are imported when they are needed: some ask for extras
_HOMES = {
    "digits": "pictures",
    "mnist": "pictures",
    "images": "pictures",
    "arrays": "pictures",
    "shards": "pictures",
    "moons": "points",
    "sentences": "sentences",
    "upscale": "upscaling",
    "text": "text",
    "graphs": "graphs",
    "molecules": "molecules",
}


def domain_of(cfg: c.DataConfig, process: c.ProcessConfig | None = None) -> Domain:
    """The domain of some data; of transfer, that of its target; under the process of autoencoders, that of these."""
    kind = cfg.target.kind if isinstance(cfg, c.TransferData) else cfg.kind
    if isinstance(process, c.UntouchedConfig):
        return import_module(f"{__name__}.autoencoders").DOMAIN
    return import_module(f"{__name__}.{_HOMES[kind]}").DOMAIN
