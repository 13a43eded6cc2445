"""Find the scenes and the labels that a user names, and which belong together: by common ground, then by stem. It reads no pixels."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from landseg.core.errors import LandsegError
from landseg.core.grid import Grid
from landseg.data.archive import is_litter
from landseg.data.burn import SUFFIXES, Layer, is_vector, open_layers
from landseg.data.dataset import walk
from landseg.data.ground import Ground, ground_of, require_common
from landseg.data.raster import open_scene

RASTERS = frozenset({".tif", ".tiff", ".gtif", ".vrt", ".img", ".jp2", ".png", ".jpg", ".jpeg", ".bil", ".bsq", ".dat", ".asc", ".webp"})
"""Endings of files in a folder that are taken for rasters; a file that is named may have any."""

_MARK = re.compile(r"(?i)([-_ ](labels?|lab|masks?|gt|seg|truth|classes|sat|image|images|img|rgb|ortho|stack))+$")


@dataclass(frozen=True)
class SceneFile:
    """A scene that will be cut.

    Args:
        path: As GDAL takes it.
        name: Unique among the scenes: the stem, as tile names begin.
        grid: Its grid.
        ground: Its outline.
        rasters: Its label rasters, in the order of their names.
        layers: Its vector layers.
    """

    path: str
    name: str
    grid: Grid
    ground: Ground
    rasters: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()


@dataclass(frozen=True)
class LabelFiles:
    """What ``--labels`` names: rasters or layers, never both."""

    rasters: tuple[tuple[str, Grid], ...] = ()
    layers: tuple[Layer, ...] = ()


def is_remote(source: str) -> bool:
    """Whether a source is a URL or a path of GDAL's virtual file systems."""
    return source.startswith("/vsi") or "://" in source


def find_scenes(sources: Sequence[str], labels: LabelFiles, leave: Path) -> list[SceneFile]:
    """Open every scene that the sources name.

    Args:
        sources: Files, folders, patterns, VRTs, ``/vsi…`` paths and URLs.
        labels: Files of these are no scenes.
        leave: A folder that is not looked into: where the result goes.

    Raises:
        LandsegError: A source names nothing or cannot be opened.
    """
    taken = {str(Path(path).resolve()) for path, _ in labels.rasters}
    paths: list[str] = []
    for source in sources:
        found = _expand(source, RASTERS, leave)
        is_chosen = len(found) == 1 and found[0] == source
        paths += [path for path in found if is_chosen or str(Path(path).resolve()) not in taken]
    if not paths:
        do = (
            "name labels that lie among scenes by a pattern: --labels 'FOLDER/*_label.tif'"
            if taken
            else "name the scenes, or a folder of them"
        )
        raise LandsegError(", ".join(sources), "no scene in it", "rasters that GDAL opens", do)
    scenes: list[SceneFile] = []
    used: set[str] = set()
    for path in dict.fromkeys(paths):
        with open_scene(path) as scene:
            name = _unique(_stem(path), used)
            scenes.append(SceneFile(path, name, scene.grid, ground_of(path, scene.grid)))
    return scenes


def find_labels(labels: str, leave: Path) -> LabelFiles:
    """Open every label raster, or every vector layer, that ``--labels`` names.

    Raises:
        LandsegError: It names nothing or both kinds, or a file cannot be opened.
    """
    paths = _expand(labels, RASTERS | SUFFIXES, leave)
    vectors = [path for path in paths if is_vector(path, RASTERS)]
    rasters = [path for path in paths if path not in vectors]
    if vectors and rasters and Path(labels).is_dir():
        found = f"rasters ({Path(rasters[0]).name}) and vector layers ({Path(vectors[0]).name})"
        raise LandsegError(
            labels, found, "one kind of labels", f"name one kind by a pattern: --labels '{labels}/*{Path(vectors[0]).suffix}'"
        )
    if not paths:
        raise LandsegError(labels, "no labels in it", "a raster of class ids or a vector layer", "name the file or its folder")
    grids = []
    for path in rasters:
        with open_scene(path, is_stored=True) as raster:
            grids.append((path, raster.grid))
    return LabelFiles(tuple(grids), tuple(layer for path in vectors for layer in open_layers(path)))


def pair(scenes: Sequence[SceneFile], labels: LabelFiles) -> tuple[list[SceneFile], list[SceneFile]]:
    """Give each scene its labels: those that share ground with it; of several rasters, those of its stem if there are such, and of
    these those that share most folders' names with it (``2019/image.tif``, ``2019/label.tif``).

    Returns:
        Scenes with labels, and scenes without.

    Raises:
        LandsegError: An image and a label that belong together by name, or as the only ones, share no ground or have no CRS; or no scene
            has labels at all.
    """
    grounds = [ground_of(path, grid) for path, grid in labels.rasters] + [layer.ground for layer in labels.layers]
    thin = [False] * len(labels.rasters) + [layer.is_thin for layer in labels.layers]
    paired, alone = [], []
    for scene in scenes:
        shared = [_shares(scene, ground, is_thin) for ground, is_thin in zip(grounds, thin, strict=True)]
        rasters = [labels.rasters[i] for i in range(len(labels.rasters)) if shared[i]]
        layers = tuple(layer for layer, does in zip(labels.layers, shared[len(labels.rasters) :], strict=True) if does)
        stem = _bare(scene.path)
        same = _closest(scene.path, [item for item in rasters if _bare(item[0]) == stem])
        if scene.grid.crs is None and len(scenes) > 1:
            rasters = same  # without a place on earth all lie in one place: only the names tell them apart
        if not rasters and not layers:
            named = [ground for ground in grounds if _bare(ground.what) == stem]
            if named or len(scenes) == len(grounds) == 1:
                require_common(scene.ground, (named or grounds)[0])
            alone.append(scene)
            continue
        chosen = same if len(rasters) > 1 and same else rasters
        if scene.grid.crs is None and layers:
            raise LandsegError(
                scene.path, "it has no CRS", "a place on earth, to find its polygons", "assign it: gdal_edit.py -a_srs EPSG:…"
            )
        _check_planes(scene, chosen)
        kept = tuple(path for path, _ in chosen)
        paired.append(SceneFile(scene.path, scene.name, scene.grid, scene.ground, kept, layers))
    if not paired:
        require_common(scenes[0].ground, grounds[0])
        what = "no label of its name" if scenes[0].grid.crs is None else "less than half a pixel of labels"
        raise LandsegError(scenes[0].path, what, "labels of its ground", "name labels like images, or check what was exported")
    return paired, alone


def _shares(scene: SceneFile, ground: Ground, is_thin: bool) -> bool:
    """Whether labels may be a scene's: over half a pixel of common ground (any, of points and lines), a CRS on both sides or on none."""
    if (scene.grid.crs is None) != (ground.crs is None):
        return False
    if is_thin:
        return scene.ground.meets(ground)
    return scene.ground.shared(ground) * scene.grid.height * scene.grid.width > 0.5


def _closest(path: str, labels: Sequence[tuple[str, Grid]]) -> list[tuple[str, Grid]]:
    """Those of some labels that share most folders' names with an image."""
    folders = set(Path(path).parent.parts)
    shared = [len(folders & set(Path(label).parent.parts)) for label, _ in labels]
    return [item for item, count in zip(labels, shared, strict=True) if count == max(shared)]


def _check_planes(scene: SceneFile, chosen: Sequence[tuple[str, Grid]]) -> None:
    """Without a CRS nothing but the shape says that two files show the same; the name has to say it too where there are several."""
    if scene.grid.crs is not None:
        return
    path, grid = chosen[0]
    if len(chosen) > 1:
        raise LandsegError(
            scene.path, f"no CRS, and {len(chosen)} labels that could be its own", "one of its name", "name labels like images"
        )
    if grid.shape != scene.grid.shape:
        found = f"{grid.height} × {grid.width} pixels, its image {scene.path} has {scene.grid.height} × {scene.grid.width}"
        raise LandsegError(path, f"{found}, and neither has a CRS", "the same size", "give both their place on earth, or cut one to fit")


def _expand(source: str, suffixes: frozenset[str], leave: Path) -> list[str]:
    """The files that a source names, sorted."""
    if is_remote(source):
        return [source]
    path = Path(source)
    if path.is_dir() and path.suffix.lower() != ".gdb":
        away = leave.resolve()
        return [str(file) for file in walk(path) if file.suffix.lower() in suffixes and not file.resolve().is_relative_to(away)]
    if path.exists():
        return [source]
    if glob.has_magic(source):
        names = sorted(glob.glob(source, recursive=True))  # noqa: PTH207 (pathlib takes no absolute patterns)
        found = [name for name in names if not is_litter(Path(name).name)]
        if found:
            return found
        raise LandsegError(source, "no file has such a name", "a pattern that fits", "put it in quotes, or check the path")
    if re.match(r"[A-Za-z]\w+:", source):
        return [source]  # a driver's own form, such as NETCDF:"file.nc":band
    raise LandsegError(source, "it is not there", "a raster, a folder, a pattern, a /vsi… path or a URL", "check the path")


def _stem(path: str) -> str:
    stem = Path(path.split("?", maxsplit=1)[0].rstrip("/")).stem
    return re.sub(r"[^\w.+-]+", "_", stem).strip("._") or "scene"


def _bare(path: str) -> str:
    """The stem without what says that it is the image or the label."""
    return _MARK.sub("", _stem(path))


def _unique(name: str, used: set[str]) -> str:
    number, result = 1, name
    while result.casefold() in used:  # some disks do not tell capitals apart
        number += 1
        result = f"{name}-{number}"
    used.add(result.casefold())
    return result
