"""langevin: diffusion models of every kind.

    import langevin as lv

    process = lv.Gaussian(lv.schedules.cosine())
    denoiser = lv.Denoiser(lv.networks.UNet(channels=1, width=32, multipliers=(1, 2), classes=10), process, prediction="v")
    lv.fit(denoiser, lv.data.digits(), steps=2000)
    x = lv.sample(denoiser, lv.plans.dpmpp(20), count=16, seed=0)

Importing the package imports nothing else; every name below is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "CFG": "langevin.guidance",
    "Categorical": "langevin.core.categorical",
    "ClassifierGuidance": "langevin.guidance",
    "Denoiser": "langevin.core.denoiser",
    "FlowMap": "langevin.core.flow_map",
    "Gaussian": "langevin.core.gaussian",
    "Noise": "langevin.core.noise",
    "Plan": "langevin.core.plan",
    "Product": "langevin.core.process",
    "Trainer": "langevin.training",
    "captured": "langevin.tasks.captured",
    "fit": "langevin.training",
    "load": "langevin.zoo.load",
    "lerp": "langevin.core.posterior",
    "log_prob": "langevin.tasks.likelihood",
    "open_run": "langevin.recipes.opening",
    "recipe": "langevin.recipes",
    "sample": "langevin.sampling",
    "save": "langevin.zoo.saving",
    "save_gif": "langevin.pictures",
    "save_images": "langevin.pictures",
    "trajectory": "langevin.sampling",
}
_MODULES = {
    "data": "langevin.data",
    "evaluate": "langevin.evaluate",
    "guidance": "langevin.guidance",
    "interpolants": "langevin.interpolants",
    "networks": "langevin.networks",
    "objectives": "langevin.objectives",
    "oracles": "langevin.oracles",
    "plans": "langevin.plans",
    "predictions": "langevin.core.prediction",
    "processes": "langevin.core.process",
    "schedules": "langevin.schedules",
    "spaces": "langevin.core.space",
    "tasks": "langevin.tasks",
    "training": "langevin.training",
}

__all__ = ["__version__", *sorted([*_NAMES, *_MODULES])]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = importlib.import_module(_MODULES[name])
    elif name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    else:
        import difflib

        near = difflib.get_close_matches(name, [*_NAMES, *_MODULES], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"langevin has no {name!r}{hint}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from langevin import data, evaluate, guidance, interpolants, networks, objectives, oracles, plans, schedules, tasks, training
    from langevin.core import prediction as predictions
    from langevin.core import process as processes
    from langevin.core import space as spaces
    from langevin.core.categorical import Categorical
    from langevin.core.denoiser import Denoiser
    from langevin.core.flow_map import FlowMap
    from langevin.core.gaussian import Gaussian
    from langevin.core.noise import Noise
    from langevin.core.plan import Plan
    from langevin.core.posterior import lerp
    from langevin.core.process import Product
    from langevin.guidance import CFG, ClassifierGuidance
    from langevin.pictures import save_gif, save_images
    from langevin.recipes import recipe
    from langevin.recipes.opening import open_run
    from langevin.sampling import sample, trajectory
    from langevin.tasks.captured import captured
    from langevin.tasks.likelihood import log_prob
    from langevin.training import Trainer, fit
    from langevin.zoo.load import load
    from langevin.zoo.saving import save
