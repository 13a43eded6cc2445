"""The documentation says what the program does: generated pages, commands, settings and links are held against the code."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
import shlex
import subprocess
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from click.testing import CliRunner
from rasterio.crs import CRS
from rasterio.features import shapes
from shapely.geometry import shape

import landseg
from landseg.cli import main
from landseg.cli.frame import WithDefault
from landseg.core.config import fields, load_recipe, recipe_names
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid
from landseg.data import raster, world
from shared.commands import landseg as run_command
from shared.commands import landseg_afresh

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MOST_BYTES = 250_000

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(landseg [a-z][^`]*)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
# Written so that they do not match themselves: folders of one machine, and hosts that serve packages.
_PLACES = re.compile(r"(?<![\w.~<>/])/(?:work|root|home|tmp|Users|opt)/[\w.-]|[a-z]:\\Users", re.IGNORECASE)
_HOSTS = re.compile(
    r"pypi[.](?:org|python)|files[.]pythonhosted|index[-]url|/(?:simple)/|mirrors?[.][a-z]+[.]|artifac(?:tory)|conda[.]anaconda",
    re.IGNORECASE,
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def shell_lines(page: Path) -> list[str]:
    """The `landseg` commands in a page's blocks of shell."""
    blocks = [body for language, body in _FENCE.findall(page.read_text(encoding="utf-8")) if language in ("sh", "bash", "console")]
    return [line.strip() for body in blocks for line in body.splitlines() if line.strip().startswith("landseg ")]


def parse(line: str) -> click.Context:
    """Let the command line parse a command without running it."""
    words = shlex.split(line, comments=True)[1:]
    words = words[: words.index(">")] if ">" in words else words
    command: click.Command = main
    context = click.Context(main, info_name="landseg")
    while isinstance(command, click.Group):
        words = command.named(words) if isinstance(command, WithDefault) else words
        assert words and words[0] in command.commands, f"{line!r}: {words[:1]} is no command"
        command = command.commands[words[0]]
        context = click.Context(command, parent=context, info_name=words[0]) if isinstance(command, click.Group) else context
        word, *words = words
    return command.make_context(word, words, parent=context)


def verbs(group: click.Group = main, *before: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for word, command in group.commands.items():
        found.append((*before, word))
        if isinstance(command, click.Group):
            found += verbs(command, *before, word)
    return found


@cache
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kept_files() -> list[Path]:
    """Files that git tracks or would track."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for path in (ROOT / line for line in listing.stdout.split("\0") if line) if path.is_file()]


@pytest.mark.parametrize("page", ["commands.md", "recipe.md"])
def test_generated_pages_are_up_to_date(page: str) -> None:
    path = ROOT / "docs" / "reference" / page
    assert path.read_text(encoding="utf-8") == generate().pages()[path], "run `make docs`"


def test_the_generated_reference_leaves_nothing_out() -> None:
    commands = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    for words in verbs():
        command: click.Command = main
        for word in words:
            assert isinstance(command, click.Group)
            command = command.commands[word]
        if not isinstance(command, click.Group):
            assert f"\n## landseg {' '.join(words)}\n" in commands
            assert all(option in commands for parameter in command.params for option in parameter.opts if option.startswith("-"))
    settings = (ROOT / "docs/reference/recipe.md").read_text(encoding="utf-8")
    assert all(f"| `{key}` |" in settings for key, *_ in fields())


@pytest.mark.parametrize("page", [page for page in PAGES if shell_lines(page)], ids=name)
def test_every_command_in_the_documentation_is_one(page: Path) -> None:
    for line in shell_lines(page):
        arguments = parse(line).params
        settings = arguments.get("set_") or ()
        # A placeholder recipe is the reader's own file; its name says so by its ending.
        recipe = arguments.get("recipe")
        load_recipe(None if recipe is None or recipe.endswith(".yaml") else recipe, settings)


@pytest.mark.parametrize("page", [page for page in PAGES if _INLINE.search(page.read_text(encoding="utf-8"))], ids=name)
def test_commands_within_sentences_exist(page: Path) -> None:
    for text in _INLINE.findall(page.read_text(encoding="utf-8")):
        command: click.Command = main
        for word in text.split()[1:]:
            if isinstance(command, click.Group) and re.fullmatch(r"[a-z]+", word):
                assert word in command.commands, f"{text!r}: {word} is no command"
                command = command.commands[word]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in text.split() if re.match(r"--?[a-z]", word)} <= known, text


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")], ids=name)
def test_python_examples_define_every_name_they_use(page: Path) -> None:
    for language, body in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            assert undefined(body) == set(), f"{name(page)}: a reader who copies this gets a NameError"
            for node in ast.walk(ast.parse(body)):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "landseg":
                    assert node.attr in landseg.__all__, f"{name(page)}: landseg.{node.attr}"


def undefined(code: str) -> set[str]:
    """Names that code reads and nothing in it makes."""
    names = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    made = {node.id for node in names if isinstance(node.ctx, ast.Store)} | imported | set(dir(builtins))
    return {node.id for node in names if isinstance(node.ctx, ast.Load)} - made


def test_the_check_of_examples_sees_a_name_that_nobody_made() -> None:
    assert undefined("import landseg\nlabels = landseg.load_model('x').predict(image)") == {"image"}


def planned() -> dict[str, list[str]]:
    """The table of names that known-limits says are refused."""
    text = (ROOT / "docs" / "known-limits.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (`.+`) \|$", text.partition("### Planned names")[2].partition("\n## ")[0], re.MULTILINE)
    return {where: re.findall(r"`([^`]+)`", names) for where, names in rows}


def test_what_is_said_to_be_missing_is_missing() -> None:
    """A name that has arrived must leave the list of those that have not."""
    table = planned()
    verbs = {where.split("`")[1] for where in table if where.startswith("options of ")}
    kinds = set(table) - {"settings", "values of settings"}
    assert kinds == {"commands", *(f"options of `{verb}`" for verb in verbs)}
    assert not set(table["commands"]) & set(main.commands)
    for verb in verbs:
        known = {option for parameter in main.commands[verb].params for option in parameter.opts}
        assert not set(table[f"options of `{verb}`"]) & known
    for setting in table.get("settings", []):
        assert setting not in [key for key, *_ in fields()]
    for value in table.get("values of settings", []):
        with pytest.raises(LandsegError):
            load_recipe(None, [value])


def test_the_architecture_lists_the_rooms_in_the_order_of_their_imports() -> None:
    """Its table and the contracts of pyproject.toml say the same: what stands further down may be imported."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers = {
        module.strip(): (contract["name"], place)
        for contract in contracts[1:]
        for place, layer in enumerate(contract["layers"])
        for module in layer.split("|")
    }
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    wing, seen = "", []
    for first, rooms in re.findall(r"^\| (.*?) ?\| (`.+?`) \|", page, re.MULTILINE):
        wing = first.strip("`") or wing
        seen += [layers[module] for room in re.findall(r"`(\w+)`", rooms) if (module := f"landseg.{wing}.{room}") in layers]
    assert len(seen) == len(layers), "each room of a contract stands in the table once"
    for contract in contracts[1:]:
        places = [place for found, place in seen if found == contract["name"]]
        assert places == sorted(places), contract["name"]


def said() -> list[str]:
    """Every text in the code, with … for what varies."""
    texts: list[str] = []
    for path in sorted((ROOT / "src" / "landseg").rglob("*.py")):
        names = {"FILE": "dataset.yaml", "CARD": "model.json", "IGNORE_INDEX": "255"}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                text = ""
                for item in node.values:
                    # A variable is a FormattedValue, whose value is what stands in its braces.
                    text += str(item.value) if isinstance(item, ast.Constant) else names.get(ast.unparse(item.value), "…")
                texts.append(text)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def in_order(pieces: Sequence[str], line: str, gap: int = 0) -> bool:
    """Whether a line holds the pieces one after the other, with so many characters between them at least."""
    at = -gap
    for piece in pieces:
        found = line.find(piece, at + gap)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def fills(phrase: str, pieces: Sequence[str]) -> bool:
    """Whether a phrase is the pieces with something in each gap between them."""
    first, *between, last = pieces
    if len(first) + len(last) + len(pieces) - 1 > len(phrase) or not phrase.startswith(first) or not phrase.endswith(last):
        return False
    return in_order(between, phrase[len(first) + 1 : len(phrase) - len(last) - 1], 1)


def test_every_message_on_the_page_of_messages_is_one() -> None:
    """A message that was reworded must be reworded there too."""
    page = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    phrases = [phrase for cell in re.findall(r"^\| (.*?) \| ", page, re.MULTILINE) for phrase in re.findall(r"`([^`]+)`", cell)]
    assert len(phrases) > 150
    texts = said()
    lines = {line for text in texts for line in text.splitlines()}
    varying = [text.split("…") for text in texts if len(text.replace("…", "")) > 8 and "…" in text]

    def is_one(phrase: str) -> bool:
        pieces = [piece.strip() for piece in phrase.split("…")]
        return any(in_order(pieces, line) for line in lines) or any(fills(phrase, pieces) for pieces in varying)

    assert not [phrase for phrase in phrases if not is_one(phrase)]
    assert not is_one("the moon is … of green cheese")


def test_the_check_of_commands_notices_what_does_not_exist() -> None:
    with pytest.raises(click.NoSuchOption):
        parse("landseg train data --out runs/first --frobnicate")
    with pytest.raises(click.MissingParameter):
        parse("landseg train data")
    with pytest.raises(AssertionError, match="is no command"):
        parse("landseg parcel map.tif")
    with pytest.raises(LandsegError, match=r"train\.lr"):
        load_recipe(None, parse("landseg train data --out runs/first --set train.rl=1").params["set_"])


def test_the_readme_journey_runs(tmp_path: Path) -> None:
    """Its commands as they stand, on a small invented competition and for one short epoch without pretrained weights."""
    invented = world.write_competition(tmp_path, 3, train_scenes=2, test_scenes=1, height=128, width=128, tile=64, unlabelled_tiles=False)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block, scenes = [body for _, body in _FENCE.findall(text) if body.startswith("landseg prepare")]
    lines = block.strip().splitlines()
    assert scenes.startswith("landseg prepare scenes")
    assert [line.split()[1] for line in lines] == ["prepare", "prepare", "audit", "split", "train", "evaluate", "predict", "submit"]
    for line in lines:
        words = shlex.split(line)[1:]
        if words[0] == "train":
            words = [
                *words,
                "--set",
                "model.weights=none",
                "--set",
                "train.minutes=null",
                "--set",
                "train.epochs=1",
                "--set",
                "train.batch=2",
            ]
        if words[0] == "split":
            words[words.index("--val") + 1] = "0.5"  # a twentieth of eight tiles is none
        done = (landseg_afresh if words[0] == "audit" else run_command)(*words, cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert (tmp_path / "runs/first/report/report.html").is_file()
    assert (tmp_path / "result.zip").is_file()
    assert invented.test_zip.is_file(), "sources are left alone"


def test_the_readme_way_from_scenes_to_parcels_runs(tmp_path: Path) -> None:
    """Its commands as they stand, on small invented scenes with polygons, for one short epoch without pretrained weights."""
    (tmp_path / "scenes").mkdir()
    polygons: list[tuple[str, Any]] = []
    for number, place in enumerate(("scenes/a.tif", "scenes/b.tif", "region.tif")):
        scene = world.make_scene(number, 128, 128)
        grid = Grid(128, 128, Affine(2, 0, 500_000 + 1000 * number, 0, -2, 4_000_000), CRS.from_epsg(32650))
        raster.write(tmp_path / place, scene.image, grid)
        crops = np.minimum(scene.label, 2)
        polygons += [(("wheat", "maize", "grass")[int(k)], shape(outline)) for outline, k in shapes(crops, transform=grid.transform)]
    names, outlines = zip(*polygons, strict=True)
    geopandas.GeoDataFrame({"crop": names}, geometry=list(outlines), crs=32650).to_file(tmp_path / "fields.gpkg")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = [body for _, body in _FENCE.findall(text) if body.startswith("landseg prepare scenes")]
    short = ["model.weights=none", "model.encoder=mobilenetv3_small_050", "train.epochs=1", "train.batch=2", "predict.window=128"]
    for line in block.strip().splitlines():
        words = shlex.split(line.replace("scenes/*.tif", "scenes/a.tif scenes/b.tif").replace("--tile 256", "--tile 64"))[1:]
        if words[0] in ("train", "predict"):
            words += [word for setting in short for word in ("--set", setting)]
        if words[0] == "split":
            words += ["--val", "0.5"]
        done = (landseg_afresh if words[0] == "parcels" else run_command)(*words, cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert shapely.coverage_is_valid(geopandas.read_file(tmp_path / "parcels.gpkg").geometry.values)


@pytest.mark.parametrize("words", [(), *verbs()], ids=lambda words: " ".join(words) or "landseg")
def test_help_opens_with_what_it_does_and_names_the_result(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(main, [*words, "--help"])
    assert shown.exit_code == 0
    usage, opening, *rest = [" ".join(part.split()) for part in shown.output.split("\n\n")]
    assert usage.startswith("Usage: ")
    assert opening[0].isupper() and opening.endswith(".") and not opening.startswith("The result")
    if words:
        assert any(part.startswith("The result is ") for part in rest)


@pytest.mark.parametrize("recipe", recipe_names())
def test_shipped_recipes_parse_and_say_what_they_are_for(recipe: str) -> None:
    load_recipe(recipe)
    shown = CliRunner().invoke(main, ["recipe", "list"])
    assert re.search(rf"^{recipe} +\S.*", shown.output, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{name(page)}: {link}"
        assert ROOT in path.parents, f"{name(page)}: {link} leads out of the repository"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings], f"{name(page)}: {link}"


def test_every_page_and_picture_is_reached_from_the_readme() -> None:
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen:
            continue
        seen.add(page)
        if page.suffix == ".md":
            links = (link.partition("#")[0] for link in _LINK.findall(page.read_text(encoding="utf-8")) if not re.match(r"[a-z]+:", link))
            todo += [(page.parent / link).resolve() for link in links if link]
    pictures = [path for path in (ROOT / "docs" / "pictures").iterdir() if path.suffix in (".jpg", ".png", ".svg")]
    assert not [name(path) for path in (*PAGES, *pictures) if path not in seen]


def test_nothing_large_is_tracked() -> None:
    assert not [f"{name(path)}: {path.stat().st_size:,} bytes" for path in kept_files() if path.stat().st_size > MOST_BYTES]


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = []
    for path in kept_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{name(path)}:{i}: {line.strip()[:120]}" for i, line in enumerate(lines, 1) if _PLACES.search(line) or _HOSTS.search(line)
        ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "is_refused"),
    [
        ("see /" + "home/anna/data.zip", True),
        ("cd /" + "tmp/x", True),
        ("--extra-index" + "-url https://example", True),
        ("`data/images` and runs/home/x", False),
        ("https://example.org/home/page", False),
    ],
)
def test_the_check_of_places_sees_them(line: str, is_refused: bool) -> None:
    assert bool(_PLACES.search(line) or _HOSTS.search(line)) is is_refused
