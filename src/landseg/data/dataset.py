"""A dataset folder: `dataset.yaml`, and the image and label files it names, in folders or in zips. It decodes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from landseg.core.classes import IGNORE_INDEX, MAX_CLASSES, LandClass, lookup_table
from landseg.core.errors import LandsegError
from landseg.core.files import write_text
from landseg.data import places
from landseg.data.labels import NO_MEND, LabelEncoding, LabelRules, Mend, label_rules
from landseg.data.tiles import SUFFIXES

FILE = "dataset.yaml"

_RARE = ("ignore_colours", "mend", "mended", "left_out", "scaling")


class DatasetInfo(BaseModel):
    """What `dataset.yaml` says; the contract's "Dataset folder" explains each key."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    images: str = "images"
    labels: str | None = "labels"
    classes: tuple[LandClass, ...] = ()
    ignore_index: int = IGNORE_INDEX
    ignore_colours: tuple[str, ...] = ()
    label_encoding: LabelEncoding = "index"
    remap: dict[int, int] = {}
    mend: Mend = NO_MEND
    mended: dict[str, int] = {}
    left_out: dict[str, str] = {}
    bands: tuple[str, ...] = ("red", "green", "blue")
    scaling: tuple[tuple[float, float], ...] | None = None
    resolution_m: float | None = None
    source: str = ""

    @field_validator("classes")
    @classmethod
    def _in_order(cls, value: tuple[LandClass, ...]) -> tuple[LandClass, ...]:
        if [item.id for item in value] != list(range(len(value))) or len(value) > MAX_CLASSES:
            raise ValueError(f"ids are {[item.id for item in value]}; they run 0, 1, 2 … in this order")
        if len({item.name for item in value}) != len(value):
            raise ValueError("two classes have the same name")
        return value

    @field_validator("ignore_colours")
    @classmethod
    def _colours(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(LandClass(id=IGNORE_INDEX, name="unlabelled", colour=colour).colour for colour in value)

    @field_validator("scaling")
    @classmethod
    def _rising(cls, value: tuple[tuple[float, float], ...] | None) -> tuple[tuple[float, float], ...] | None:
        for low, high in value or ():
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"[{low}, {high}] is no range from a lower to a higher number")
        return value


@dataclass(frozen=True)
class Tile:
    """One tile: its name (path below the images folder without ending, ``/`` between folders) and its files, as `places` names them."""

    name: str
    image: Path
    label: Path | None


@dataclass(frozen=True)
class Dataset:
    """A dataset folder that was found to be in order; its tiles are listed on first use."""

    folder: Path
    info: DatasetInfo

    @property
    def image_folder(self) -> Path:
        """Where the images are: a folder, a zip or a folder in one; `dataset.yaml` may point outside the dataset folder."""
        return self.folder / self.info.images

    @property
    def label_folder(self) -> Path | None:
        """Where the labels are; None for a test set."""
        return None if self.info.labels is None else self.folder / self.info.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of their ids."""
        return tuple(item.name for item in self.info.classes)

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """The tiles sorted by name: all images of a test set, else the images that have a label; without those left out by name."""
        images = {name: path for name, path in list_files(self.image_folder).items() if name not in self.info.left_out}
        if self.label_folder is None:
            return tuple(Tile(name, path, None) for name, path in images.items())
        labels = list_files(self.label_folder)
        return tuple(Tile(name, path, labels[name]) for name, path in images.items() if name in labels)

    @cached_property
    def table(self) -> np.ndarray:
        """Code in a label file → class id, as `core.classes.lookup_table` makes it."""
        return lookup_table(len(self.info.classes), self.info.ignore_index, self.info.remap)

    @cached_property
    def label_rules(self) -> LabelRules:
        """How its label files are read."""
        info = self.info
        unlabelled = [LandClass(id=IGNORE_INDEX, name="unlabelled", colour=colour).rgb for colour in info.ignore_colours]
        return label_rules(
            info.classes,
            encoding=info.label_encoding,
            ignore_index=info.ignore_index,
            remap=info.remap,
            ignore_colours=unlabelled,
            mend=info.mend,
        )

    def require_labels(self, purpose: str) -> None:
        """Refuse a test set where labels are needed.

        Raises:
            LandsegError: The data set has no labels, or no classes.
        """
        if self.info.labels is None or not self.info.classes:
            raise LandsegError(
                self.folder,
                "a data set without labels",
                f"{purpose} needs labelled tiles",
                "name a data set that was prepared with --classes",
            )


def read_info(folder: Path) -> DatasetInfo:
    """Read a folder's `dataset.yaml`; whether its tiles are there is not looked at.

    Raises:
        LandsegError: There is none, or it cannot be understood.
    """
    path = folder / FILE
    if not path.is_file():
        raise LandsegError(folder, f"no {FILE} in it", "a dataset folder", f"make one with `landseg prepare SOURCE --out {folder}`")
    try:
        return DatasetInfo.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        fault = "it cannot be read" if isinstance(error, OSError) else "not YAML"
        raise LandsegError(
            path, f"{fault} ({' '.join(str(error).split())[:120]})", "a readable file", "mend it or prepare the data set again"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise LandsegError(path, f"{key}: {first['msg']}", "the keys of a dataset.yaml", "see docs/reference/dataset.md") from error


def open_dataset(folder: Path) -> Dataset:
    """Open a dataset folder.

    Raises:
        LandsegError: There is none, its `dataset.yaml` cannot be understood, or its images are gone or in a damaged zip.
    """
    info = read_info(folder)
    dataset = Dataset(folder, info)
    for place in (dataset.image_folder, dataset.label_folder):
        if place is not None and not places.is_there(place):
            raise LandsegError(
                folder / FILE,
                f"{place} is not there",
                "the folder or zip that the data set refers to",
                "move it back or prepare the data set again",
            )
    if not dataset.tiles:
        raise LandsegError(
            folder, "no tiles in it", "at least one image" + ("" if info.labels is None else " with a label"), "prepare it again"
        )
    return dataset


def write_info(folder: Path, info: DatasetInfo) -> None:
    """Write `dataset.yaml`, one class a line, in the order of the contract; what is rarely set stands there only when it is."""
    document = info.model_dump() | {"mend": info.mend.stated()}
    lines = []
    for key, value in document.items():
        if key in _RARE and not value:
            continue
        if key == "classes" and value:
            lines += ["classes:\n", *(f"  - {_yaml(item, flow=True)}" for item in value)]
        elif key == "left_out":
            lines.append(_yaml({key: value}, flow=False))
        else:
            # Scalars in block style, lists and maps in brackets: a scalar in flow style would stand in braces, a document of its own.
            lines.append(_yaml({key: value}, flow=None if isinstance(value, tuple | dict) else False))
    write_text(folder / FILE, "".join(lines))


def list_files(folder: Path) -> dict[str, Path]:
    """Tile files below a folder, which may be a zip, by tile name, sorted; hidden files and macOS's leavings are passed over.

    Raises:
        LandsegError: Two files have the same name but for their ending.
    """
    found: dict[str, Path] = {}
    for path in walk(folder):
        if path.suffix.lower() not in SUFFIXES:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise LandsegError(
                folder, f"a file is named {name!r}, which is not UTF-8", "names in UTF-8", "rename it, or zip the folder"
            ) from error
        if name in found:
            raise LandsegError(path, f"{found[name].name} has the same name", "one file a tile", "move one of them elsewhere")
        found[name] = path
    return dict(sorted(found.items()))


def walk(folder: Path) -> Iterator[Path]:
    """Regular files below a folder, which may be a zip, sorted by name; hidden entries and ``__MACOSX`` are passed over."""
    for here, names in places.folders(folder):
        for name in names:
            yield here / name


def _yaml(value: object, *, flow: bool | None) -> str:
    return str(yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True, sort_keys=False, width=10**6))
