"""Feed every reader with damaged files: no exception but the ones that readers promise, no hang, no memory beyond a bound.

    python bench/fuzz.py --count 10000

Each case is a function of its number alone, so a failing one is repeated by `--first NUMBER --count 1`. The cases run in child processes
of a few hundred, so that a crash of a native library is told with the case that caused it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from landseg.core.classes import make_classes, parse_classes
from landseg.core.config import load_recipe
from landseg.core.errors import LandsegError
from landseg.data.annotations import find_annotations
from landseg.data.archive import unpack
from landseg.data.dataset import DatasetInfo, open_dataset, write_info
from landseg.data.labels import read_label
from landseg.data.lists import find_lists
from landseg.data.tiles import UnreadableTile, decode_image, encode_image, encode_label
from landseg.data.world import make_scene

HANG_S = 20
MEMORY_BYTES = 2_000_000_000
A_CHILD = 250

Case = Callable[[Path, np.random.Generator], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _run(range(arguments.first, arguments.first + arguments.count))
        return
    started, told, failures, peak = time.monotonic(), Counter[str](), [], 0
    for first in range(arguments.first, arguments.first + arguments.count, A_CHILD):
        count = min(A_CHILD, arguments.first + arguments.count - first)
        command = [sys.executable, __file__, "--child", "--first", str(first), "--count", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        if done.returncode or not lines or not lines[-1].startswith("{"):
            last = next((line for line in reversed(lines) if line.startswith("case")), "before the first case")
            failures.append(f"{last}: {done.stderr.strip().splitlines()[-1:] or f'exit {done.returncode}'}")
            continue
        document = json.loads(lines[-1])
        told.update(document["told"])
        peak = max(peak, document["peak_bytes"])
        failures += document["failures"]
    minutes = (time.monotonic() - started) / 60
    for name, number in sorted(told.items()):
        print(f"{number:8,}  {name}")
    print(f"{arguments.count:,} cases in {minutes:.1f} min, peak {peak / 1e9:.2f} GB, {len(failures)} failures")
    for failure in failures[:20]:
        print(f"  {failure}")
    sys.exit(bool(failures) or peak > MEMORY_BYTES)


def _run(numbers: range) -> None:
    signal.signal(signal.SIGALRM, _hung)
    told, failures = Counter[str](), []
    names = list(CASES)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with tempfile.TemporaryDirectory() as scratch:
        for number in numbers:
            rng = np.random.default_rng(number)
            name = names[number % len(names)]
            folder = Path(scratch) / str(number)
            folder.mkdir()
            print(f"case {number} {name}", flush=True)
            signal.alarm(HANG_S)
            try:
                CASES[name](folder, rng)
                told[f"{name}: read"] += 1
            except (LandsegError, UnreadableTile) as error:
                told[f"{name}: refused"] += 1
                if "\n" in str(error) or not str(error):
                    failures.append(f"case {number} {name}: a message of several lines or none: {str(error)[:200]!r}")
            except Exception as error:  # noqa: BLE001 - it is what is looked for
                failures.append(f"case {number} {name}: {type(error).__name__}: {str(error)[:200]}")
            finally:
                signal.alarm(0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"told": told, "failures": failures, "peak_bytes": peak, "base_bytes": base}))


def _hung(*_: object) -> None:
    raise TimeoutError(f"no end after {HANG_S} s")


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Change some bytes as disks, networks and other programs do: flips, cuts, holes, repeats, swaps, numbers at their limits."""
    content = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        size = len(content)
        if not size:
            break
        at, length = int(rng.integers(size)), int(rng.integers(1, 1 + max(1, size // 8)))
        match int(rng.integers(8)):
            case 0:
                content[at] ^= 1 << int(rng.integers(8))
            case 1:
                del content[at:]
            case 2:
                del content[at : at + length]
            case 3:
                content[at:at] = content[at : at + length]
            case 4:
                content[at : at + 4] = int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 65535])).to_bytes(4, "little")
            case 5:
                content[at : at + length] = rng.integers(0, 256, len(content[at : at + length]), np.uint8).tobytes()
            case 6:
                head = int(rng.integers(min(size, 64)))
                content[head] = int(rng.integers(256))
            case _:
                content[at : at + length] = bytes(len(content[at : at + length]))
    return bytes(content)


def _reworded(text: str, rng: np.random.Generator) -> str:
    """Change words and numbers of a text so that it mostly still parses."""
    words = [  # what YAML, JSON and tables stumble over
        "null",
        "-1",
        "1e999",
        "NaN",
        "[]",
        "{}",
        '""',
        '"\\u0000"',
        "99999999999999999999",
        "true",
        "[[[[]]]]",
        "0.5",
        "建筑",
        "~",
        "*a",
        "&a [*a]",
    ]
    pieces = text.split(" ")
    for _ in range(int(rng.integers(1, 4))):
        i = int(rng.integers(len(pieces)))
        pieces[i] = words[int(rng.integers(len(words)))] + ("," if pieces[i].endswith(",") else "")
    return " ".join(pieces)


def _text(text: str, rng: np.random.Generator) -> bytes:
    return damaged(text.encode(), rng) if rng.random() < 0.5 else _reworded(text, rng).encode()


def _scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    scene = make_scene(int(rng.integers(4)), 48, 64)
    return scene.image, scene.label


def _npy(array: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _tiff(array: np.ndarray) -> bytes:
    from rasterio.io import MemoryFile

    bands = np.atleast_3d(array).transpose(2, 0, 1)
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", height=bands.shape[1], width=bands.shape[2], count=len(bands), dtype=bands.dtype.name, compress="deflate"
        ) as target:
            target.write(bands)
        return bytes(memory.read())


def _image(folder: Path, rng: np.random.Generator) -> None:
    image, _ = _scene(rng)
    files = [
        lambda: encode_image(image, ".jpg"),
        lambda: encode_image(image),
        lambda: encode_image(image, ".bmp"),
        lambda: encode_image(image.astype(np.uint16) * 200),
        lambda: _tiff(image),
        lambda: _tiff(image.astype(np.float32)),
        lambda: _npy(image.astype(np.int16)),
    ]
    decode_image(damaged(files[int(rng.integers(len(files)))](), rng))


def _label(folder: Path, rng: np.random.Generator) -> None:
    _, label = _scene(rng)
    classes = make_classes(["building", "farmland", "forest", "road", "water"])
    colours = np.array([(item.rgb) for item in classes] + [(255, 255, 255)] * 251, np.uint8)[label]
    files = [
        lambda: encode_image(label),
        lambda: encode_label(label, classes),
        lambda: encode_image(colours),
        lambda: _npy(label.astype(np.float32)),
        lambda: _npy(label.astype(np.int64)),
        lambda: _tiff(label),
        lambda: encode_image(label, ".jpg"),
    ]
    encoding = ("index", "palette", "rgb")[int(rng.integers(3))]
    info = DatasetInfo(name="x", classes=classes, label_encoding=encoding)
    write_info(folder, info)
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    (folder / "images" / "a.png").write_bytes(encode_image(label))
    (folder / "labels" / "a.png").write_bytes(b"")
    read_label(damaged(files[int(rng.integers(len(files)))](), rng), open_dataset(folder).label_rules, label.shape)


def _zip(folder: Path, rng: np.random.Generator) -> None:
    path = folder / "a.zip"
    image, label = _scene(rng)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if rng.random() < 0.5 else zipfile.ZIP_STORED) as archive:
        for i in range(3):
            archive.writestr(f"img_train/{i}.jpg", encode_image(image, ".jpg"))
            archive.writestr(f"lab_train/{i}.png", encode_image(label))
    path.write_bytes(damaged(path.read_bytes(), rng))
    unpack(path, folder / "out", keep=lambda name: True)


def _dataset_yaml(folder: Path, rng: np.random.Generator) -> None:
    write_info(folder, DatasetInfo(name="x", classes=make_classes(["a", "b"]), remap={1: 0, 2: 1}))
    (folder / "dataset.yaml").write_bytes(_text((folder / "dataset.yaml").read_text(), rng))
    for role in ("images", "labels"):
        (folder / role).mkdir()
        (folder / role / "a.png").write_bytes(encode_image(np.zeros((8, 8), np.uint8)))
    _ = open_dataset(folder).label_rules


def _recipe(folder: Path, rng: np.random.Generator) -> None:
    (folder / "r.yaml").write_bytes(
        _text("model: { network: unet , encoder: resnet18 }\ntrain: { epochs: 3 , lr: 1e-3 , batch: 4 }\n", rng)
    )
    load_recipe(folder / "r.yaml")


def _class_file(folder: Path, rng: np.random.Generator) -> None:
    texts = {
        "c.yaml": "classes:\n - { name: a , colour: '#ff0000' , code: 1 }\n - { name: b , colour: '#00ff00' , code: 2 }\nignore_index: 0\n",
        "c.csv": "id,name,r,g,b\n0, building ,255, 0 ,0\n1, road ,0, 255 ,0\n",
        "labels.txt": "building \nroad \n水\n",
        "labelmap.txt": "# label:color_rgb:parts:actions\nbuilding:255,0,0::\nroad:0,255,0::\n",
        "labels.json": json.dumps([{"name": "building", "color": "#ff0000", "attributes": []}, {"name": "road", "color": "#00ff00"}]),
    }
    name = list(texts)[int(rng.integers(len(texts)))]
    (folder / name).write_bytes(_text(texts[name], rng))
    parse_classes(str(folder / name))


def _coco(size: tuple[int, int]) -> str:
    height, width = size
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": "a.png", "height": height, "width": width}],
            "categories": [{"id": 7, "name": "building"}, {"id": 9, "name": "water"}],
            "annotations": [
                {
                    "id": 1,
                    "image_id": 1,
                    "category_id": 7,
                    "segmentation": [[2, 2, 20, 3, 18, 30, 4, 22]],
                    "iscrowd": 0,
                    "bbox": [2, 2, 18, 28],
                    "area": 9,
                },
                {
                    "id": 2,
                    "image_id": 1,
                    "category_id": 9,
                    "segmentation": {"size": [height, width], "counts": [40, 200, height * width - 240]},
                    "iscrowd": 1,
                },
            ],
        }
    )


def _labelme(size: tuple[int, int]) -> str:
    shapes = [
        {"label": "building", "points": [[1, 1], [20, 2], [15, 30]], "shape_type": "polygon", "group_id": None, "flags": {}},
        {"label": "water", "points": [[5, 5], [9, 9]], "shape_type": "circle", "group_id": None, "flags": {}},
    ]
    return json.dumps(
        {
            "version": "5.4.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": "a.png",
            "imageData": None,
            "imageHeight": size[0],
            "imageWidth": size[1],
        }
    )


def _label_studio(size: tuple[int, int]) -> str:
    value = {"points": [[10, 10], [60, 20], [30, 80]], "polygonlabels": ["building"], "closed": True}
    result = {
        "original_width": size[1],
        "original_height": size[0],
        "image_rotation": 0,
        "value": value,
        "type": "polygonlabels",
        "from_name": "l",
        "to_name": "i",
    }
    return json.dumps(
        [
            {
                "id": 1,
                "annotations": [{"id": 2, "was_cancelled": False, "result": [result]}],
                "data": {"image": "/data/upload/1/ab12cd34-a.png"},
            }
        ]
    )


def _cvat(size: tuple[int, int]) -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?> <annotations> <version>1.1</version> <meta> <task> <labels> '
        "<label> <name>building</name> <color>#ff0000</color> </label> </labels> </task> </meta> "
        f'<image id="0" name="a.png" width="{size[1]}" height="{size[0]}"> '
        '<polygon label="building" source="manual" occluded="0" points="1.0,1.0;20.5,3;10,30" z_order="0"> </polygon> '
        '<box label="building" occluded="0" xtl="3" ytl="4" xbr="20" ybr="25" z_order="1"> </box> </image> </annotations>'
    )


def _annotations(folder: Path, rng: np.random.Generator) -> None:
    makers = {"coco.json": _coco, "a.json": _labelme, "export.json": _label_studio, "annotations.xml": _cvat}
    name = list(makers)[int(rng.integers(len(makers)))]
    image, _ = _scene(rng)
    (folder / "a.png").write_bytes(encode_image(image))
    (folder / name).write_bytes(_text(makers[name](image.shape[:2]), rng))
    found = find_annotations([folder])
    for tile in found.images if found else ():
        found.rasterise(tile)


def _lists(folder: Path, rng: np.random.Generator) -> None:
    for role in ("images", "labels"):
        (folder / role).mkdir()
        for i in range(3):
            (folder / role / f"{i}.png").write_bytes(encode_image(np.zeros((8, 8), np.uint8)))
    (folder / "labels.txt").write_text("a\nb\n")
    lines = "".join(f"images/{i}.png labels/{i}.png\n" for i in range(3))
    (folder / "train_list.txt").write_bytes(_text(lines, rng))
    find_lists(folder)


CASES: dict[str, Case] = {
    "image": _image,
    "label": _label,
    "zip": _zip,
    "annotations": _annotations,
    "dataset.yaml": _dataset_yaml,
    "class file": _class_file,
    "recipe": _recipe,
    "lists": _lists,
}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
