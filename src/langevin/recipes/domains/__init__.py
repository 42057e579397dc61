"""What differs between kinds of data: how it is read, which networks fit it, how samples are shown and judged.

One object for each domain, found by the kind of a recipe's data. Everything else of a run is the same for all of them.
"""

from importlib import import_module
from typing import Any

from langevin.data import Arrays
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
    "stream": "pictures",
    "hugging_face": "pictures",
    "moons": "points",
    "table": "points",
    "sentences": "sentences",
    "upscale": "upscaling",
    "text": "text",
    "graphs": "graphs",
    "molecules": "molecules",
}


def domain_of(cfg: c.DataConfig, process: c.ProcessConfig | None = None, shape: Any = None) -> Domain:
    """The domain of some data; of transfer, that of its target; under the process of autoencoders, that of these.

    Args:
        shape: of a sample, where that is known; else what the file of arrays says, if it hangs on that.
    """
    side = cfg.target if isinstance(cfg, c.TransferData) else cfg
    home = _HOMES[side.kind]
    if isinstance(process, c.UntouchedConfig):
        home = "autoencoders"
    elif isinstance(side, c.ArraysData):
        home = "points" if len(Arrays(side.x).shape if shape is None else shape) == 1 else home
    return import_module(f"{__name__}.{home}").DOMAIN
