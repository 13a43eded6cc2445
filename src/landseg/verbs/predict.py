"""The verb `predict`: tiles or scenes and a model → class maps. It composes; the work is in `inference.folder` and `inference.scenes`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landseg.core.config import load_recipe
from landseg.core.errors import LandsegError
from landseg.core.files import refuse_existing
from landseg.core.progress import clock
from landseg.core.settings import PredictConfig, Recipe
from landseg.data.bands import numbers_only
from landseg.data.dataset import FILE, open_dataset
from landseg.data.inputs import find_inputs
from landseg.data.places import is_zipped
from landseg.inference.plan import Choices
from landseg.inference.scenes import SceneMap, is_scene, predict_scenes
from landseg.inference.tta import require_known

if TYPE_CHECKING:
    from landseg.network.engine import Engine

_GPU_WINDOWS = 4
"""Windows of a scene that a GPU sees at once: as many pixels as the usual batch of tiles. A CPU takes one a core."""


@dataclass(frozen=True)
class Predicted:
    """What `predict` did."""

    out: Path
    files: int
    pixels: int
    seconds: float
    unreadable: dict[str, str]
    resumed: int = 0
    scenes: tuple[SceneMap, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The document of ``--json``."""
        document = {
            "out": str(self.out),
            "files": self.files,
            "pixels": self.pixels,
            "seconds": round(self.seconds, 3),
            "unreadable": self.unreadable,
        }
        return document | ({"scenes": [_scene_json(scene) for scene in self.scenes]} if self.scenes else {})

    def as_text(self) -> str:
        """Lines for a person."""
        if self.scenes:
            return "\n".join(line for scene in self.scenes for line in _scene_lines(scene))
        made = self.files - self.resumed
        speed = f", {made / self.seconds:.0f} tiles/s" if made and self.seconds >= 1 else ""
        lines = [f"{self.out}: {self.files:,} class maps, {self.pixels / 1e6:.1f} Mpx in {clock(self.seconds)}{speed}"]
        if self.resumed:
            lines.append(f"{self.resumed:,} of them were finished before")
        if self.unreadable:
            lines.append(f"left out, because they cannot be read ({len(self.unreadable)}):")
            lines += [f"  {name}: {reason}" for name, reason in self.unreadable.items()]
        return "\n".join(lines)


def predict(
    model: str | Path | Sequence[str | Path],
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    bounds: Sequence[float] | None = None,
    confidence: bool = False,
    overlay: bool = False,
    probabilities: bool = False,
    tta: str | None = None,
    recipe: str | Path | Recipe | None = None,
    settings: Sequence[str] = (),
    overwrite: bool = False,
) -> Predicted:
    """Predict tiles into a folder of class maps, or scenes into georeferenced ones.

    A call that was interrupted is completed by the same call again. What is a scene says `inference.scenes.is_scene`.

    Args:
        model: Run folder or model folder, or several (an ensemble).
        inputs: Folder, zip, dataset folder or image, or several in any mixture; or scenes: GeoTIFF, COG, VRT, ``/vsi…`` path, URL.
        out: The folder to write: ``<name>.png`` a tile and `predictions.json`; ``<name>_classes.tif`` a scene, with its style and picture.
        bounds: (left, bottom, right, top) in units of the scene's CRS: the part to predict (scenes).
        confidence: Also ``<name>_confidence.tif``: 0–200 = 0–100 % (scenes).
        overlay: Also ``overlay/<name>.jpg``, of a scene ``<name>_overlay.png``: the image under the classes' colours.
        probabilities: Also ``<name>.npy``: softmax, float16 (K, H, W); of a scene ``<name>_probabilities.tif``, a band a class, 0–200.
        tta: none | d4 | scales: test-time augmentation, in place of ``predict.tta``; it is recorded in `predictions.json`.
        recipe: Its section `predict` sets batch, device, engine, bands, augmentation, and the windows of scenes.
        settings: ``key=value`` each, over the recipe.
        overwrite: Replace an earlier prediction.

    Raises:
        LandsegError: No model, no input, no such augmentation, `out` exists, inputs that do not fit the model, or none that can be read.
    """
    chosen = (recipe if isinstance(recipe, Recipe) else load_recipe(recipe, settings)).predict
    augmentation = require_known(chosen.tta if tta is None else tta)
    target, scenes = Path(out), _scenes(inputs)
    if scenes:
        choices = _choices(chosen, bounds, confidence=confidence, probabilities=probabilities)
        return _predict_scenes(_paths(model), scenes, target, choices, chosen, overlay, augmentation, overwrite)
    bands, sources = numbers_only(chosen.bands), _paths(inputs)
    for option, is_given in (("--bounds", bounds is not None), ("--confidence", confidence)):
        if is_given and all(path.exists() for path in sources):  # what is not there, `find_inputs` says
            needed = "a scene: a raster with a place on earth, a VRT or a URL"
            raise LandsegError(option, f"{sources[0]} holds tiles", needed, f"leave {option} out, or name scenes one by one: FOLDER/*.tif")
    _keep_apart(target, sources)
    tiles = find_inputs(sources)
    # Imported here: an engine may take seconds to load, and `landseg --help` and wrong paths shall answer at once.
    from landseg.inference.folder import BEGUN, FINISHED, predict_tiles
    from landseg.network.engine import load_engine

    if not (target / BEGUN).exists():
        # --overwrite replaces a prediction, not a stranger's folder.
        refuse_existing(target, overwrite=overwrite and (target / FINISHED).exists())
    engine = load_engine(_paths(model), chosen.device, chosen.engine, chosen.precision)
    done = predict_tiles(
        engine,
        tiles,
        target,
        batch=chosen.batch,
        overlay=overlay,
        probabilities=probabilities,
        bands=bands,
        tta=augmentation,
        fingerprint=_fingerprint(engine),
        overwrite=overwrite,
    )
    return Predicted(target, done.files, done.pixels, done.seconds, done.unreadable, done.resumed)


def _predict_scenes(
    models: list[Path], scenes: list[str], out: Path, choices: Choices, chosen: PredictConfig, overlay: bool, tta: str, overwrite: bool
) -> Predicted:
    from landseg.network.engine import load_engine

    engine = load_engine(models, chosen.device, chosen.engine, chosen.precision)
    step, workers = (_GPU_WINDOWS, 1) if _is_on_gpu(engine) else (1, engine.lanes if engine.lanes > 1 else None)
    maps = predict_scenes(
        engine, scenes, out, choices, overlay=overlay, tta=tta, fingerprint=_fingerprint(engine), overwrite=overwrite, step=step,
        workers=workers,
    )  # fmt: skip
    resumed = sum(item.is_resumed for item in maps)
    return Predicted(out, len(maps), sum(item.pixels for item in maps), sum(item.seconds for item in maps), {}, resumed, tuple(maps))


def _fingerprint(engine: Engine) -> str:
    """Tells models apart: those that were loaded, for a training may have put a better one in a folder since."""
    return "+".join(one.card.weights_sha256 for one in getattr(engine, "engines", (engine,)))


def _is_on_gpu(engine: Engine) -> bool:
    devices = [getattr(one, "device", None) for one in getattr(engine, "engines", (engine,))]
    return any(device is not None and device.type != "cpu" for device in devices)


def _choices(chosen: PredictConfig, bounds: Sequence[float] | None, *, confidence: bool, probabilities: bool) -> Choices:
    """The settings and options that concern scenes.

    Raises:
        LandsegError: `bounds` are not four numbers.
    """
    if bounds is not None and len(bounds) != 4:
        raise LandsegError("--bounds", f"{len(bounds)} numbers", "four: left bottom right top", "give all of them")
    part = None if bounds is None else (float(bounds[0]), float(bounds[1]), float(bounds[2]), float(bounds[3]))
    return Choices(chosen.overlap, chosen.window, chosen.exact, chosen.bands, part, confidence, probabilities)


def _scenes(inputs: str | Path | Sequence[str | Path]) -> list[str]:
    """The inputs as scenes; none where they are tiles.

    Raises:
        LandsegError: Some are scenes and some are not.
    """
    given = [str(item) for item in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    scenes = [text for text in given if is_scene(text)]
    if scenes and len(scenes) < len(given):
        other = next(text for text in given if text not in scenes)
        found = "it is no scene" if Path(other).exists() else "it is not there"
        raise LandsegError(other, f"{found}, but {scenes[0]} is", "scenes or tiles in a call", "predict them one after the other")
    return scenes


def _scene_json(scene: SceneMap) -> dict[str, Any]:
    return {
        "source": scene.source, "files": [str(path) for path in scene.files], "pixels": scene.pixels, "nodata": scene.nodata,
        "seconds": round(scene.seconds, 3), "notes": list(scene.notes),
        "classes": [
            {"name": item.name, "pixels": item.pixels, "area_ha": None if item.area_ha is None else round(item.area_ha, 4)}
            for item in scene.classes
        ],
    }  # fmt: skip


def _scene_lines(scene: SceneMap) -> list[str]:
    megapixels = scene.pixels / 1e6
    speed = f", {megapixels / scene.seconds:.2f} Mpx/s" if not scene.is_resumed and scene.seconds >= 1 else ""
    lines = [f"{scene.files[0]}: {megapixels:.1f} Mpx in {clock(scene.seconds)}{speed}"]
    if scene.is_resumed:
        lines.append("part of it, or all, was finished before")
    table = [(item.name, item.pixels, "" if item.area_ha is None else f"{_hectares(item.area_ha)} ha") for item in scene.classes]
    table += [("no data", scene.nodata, "")] * (scene.nodata > 0)
    first, second, third = (max(map(len, column)) for column in zip(*((a, f"{b:,}", c) for a, b, c in table), strict=True))
    for name, pixels, area in table:
        lines.append(f"  {name:<{first}}  {pixels:>{second},} px  {area:>{third}}  {pixels / scene.pixels:>6.1%}")
    return [*lines, f"  beside it: {', '.join(path.name for path in scene.files[1:])}"]


def _hectares(area: float) -> str:
    """Square metres show of small areas, hectares of large ones."""
    return f"{area:,.4f}" if area < 10 else f"{area:,.2f}" if area < 10_000 else f"{area:,.0f}"


def _keep_apart(target: Path, sources: Sequence[Path]) -> None:
    """Refuse an output that lies in an input or holds one: class maps would take the images' place, or be predicted next time."""
    place = target.resolve()
    for path in sources:
        # Beside the images of a dataset folder there is room for predictions, among them there is none.
        folder = open_dataset(path).image_folder if (path / FILE).is_file() else path
        images = folder.resolve()
        is_folder = images.is_dir() or (path.is_dir() and is_zipped(images))
        if is_folder and (place.is_relative_to(images) or images.is_relative_to(place)):
            where = "it lies inside the input" if place.is_relative_to(images) else "it holds the input"
            raise LandsegError(target, f"{where} {path}", "class maps apart from the images", "choose another --out")


def models_first(paths: Sequence[str]) -> tuple[list[Path], list[str | Path]]:
    """Tell the models at the head of a command line from the inputs behind them: several models are an ensemble.

    Raises:
        LandsegError: Nothing is left to predict.
    """
    given = [Path(path) for path in paths]
    count = 1
    while count < len(given) and any((given[count] / place).is_file() for place in ("model.json", "model/model.json")):
        count += 1
    if count >= len(given):
        needed = "a folder, zip, dataset folder, image or scene"
        raise LandsegError("INPUT", "nothing to predict is named", needed, "name it after the model")
    # A URL, and a path of GDAL's, would lose one of its double slashes as a path.
    inputs: list[str | Path] = [text if "://" in text or text.startswith("/vsi") else Path(text) for text in paths[count:]]
    return given[:count], inputs


def _paths(given: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(given)] if isinstance(given, str | Path) else [Path(item) for item in given]
