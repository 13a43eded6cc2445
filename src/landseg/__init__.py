"""landseg turns remote-sensing images into honest land-parcel maps.

Each verb of the command line is a function of the same name here, loaded when it is first used::

    import landseg

    landseg.prepare(["train_and_label.zip"], "data", classes="building,land,road")
    landseg.split("data")
    landseg.train("data", "runs/first", recipe="tiny")
    model = landseg.load_model("runs/first")
    labels = model.predict(image)  # (H, W) uint8 from (H, W, C)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from landseg.core.errors import LandsegError as LandsegError
    from landseg.model import Model as Model
    from landseg.model import load_model as load_model
    from landseg.verbs.audit import audit as audit
    from landseg.verbs.compete import compete as compete
    from landseg.verbs.demo import demo as demo
    from landseg.verbs.doctor import doctor as doctor
    from landseg.verbs.evaluate import evaluate as evaluate
    from landseg.verbs.export import export as export
    from landseg.verbs.parcels import parcels as parcels
    from landseg.verbs.predict import predict as predict
    from landseg.verbs.prepare import prepare as prepare
    from landseg.verbs.preview import preview as preview
    from landseg.verbs.runs import runs as runs
    from landseg.verbs.runs import runs_compare as runs_compare
    from landseg.verbs.runs import runs_prune as runs_prune
    from landseg.verbs.split import split as split
    from landseg.verbs.submit import submit as submit
    from landseg.verbs.train import train as train

_VERBS = (
    "audit",
    "compete",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "parcels",
    "predict",
    "prepare",
    "preview",
    "runs",
    "split",
    "submit",
    "train",
)
_HOMES = {
    **{verb: f"landseg.verbs.{verb}" for verb in _VERBS},
    "runs_compare": "landseg.verbs.runs",
    "runs_prune": "landseg.verbs.runs",
    "load_model": "landseg.model",
    "Model": "landseg.model",
    "LandsegError": "landseg.core.errors",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'landseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
