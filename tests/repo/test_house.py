"""The rules of the house: style, types, floors, and what may be imported where."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "landseg"
MODULES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = [folder for folder in ("src", "tests", "bench", "docs") if any((ROOT / folder).rglob("*.py"))]
LONGEST = 400
WITHOUT_TORCH = ("core", "data", "splitting", "product")


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def imported(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after `code`."""
    done = python("-c", f"import json, sys\n{code}\njson.dump(sorted(sys.modules), sys.stderr)")
    assert done.returncode == 0, done.stdout + done.stderr
    return {module.partition(".")[0] for module in json.loads(done.stderr.splitlines()[-1])}


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "ruff", "check", *FOLDERS),
        ("-m", "ruff", "format", "--check", *FOLDERS),
        ("-m", "mypy"),
        ("-c", "from importlinter.cli import lint_imports_command as lint; lint()"),
    ],
    ids=["ruff check", "ruff format", "mypy", "import-linter"],
)
def test_the_linters_are_content(arguments: tuple[str, ...]) -> None:
    done = python(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_a_room_is_small_and_says_what_it_is(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    tree = ast.parse(text)
    if tree.body:
        docstring = ast.get_docstring(tree)
        assert docstring and docstring.splitlines()[0].rstrip().endswith((".", ":"))


@pytest.mark.parametrize("module", [module for module in MODULES if not name(module).startswith("cli/")], ids=name)
def test_only_the_command_line_prints_exits_and_knows_click(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not {"print", "exit", "quit", "sys.exit", "os._exit"} & set(calls)
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert "click" not in {module.partition(".")[0] for module in names}


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_no_error_is_swallowed_whole(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            is_whole = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            inside = [item for statement in node.body for item in ast.walk(statement)]
            goes_on = any(isinstance(item, ast.Raise) or (isinstance(item, ast.Name) and item.id == node.name) for item in inside)
            assert goes_on or not is_whole, f"line {node.lineno}: it is neither raised again nor handed to somebody who does"


def test_fabric_is_known_to_the_step_and_to_who_shares_it_alone() -> None:
    found = [name(module) for module in MODULES if "lightning_fabric" in module.read_text(encoding="utf-8")]
    assert found == ["training/ranks.py", "training/step.py"]


def test_every_room_stands_in_the_architecture() -> None:
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    rooms = [module for module in MODULES if module.stem != "__init__"]
    assert not [name(module) for module in rooms if f"`{module.stem}`" not in page]


def test_importing_landseg_is_light() -> None:
    assert not imported("import landseg") & {"torch", "numpy", "rasterio", "cv2", "pydantic", "matplotlib", "click"}


def test_help_is_light() -> None:
    code = "from landseg.cli import main\nmain(['--help'], standalone_mode=False)"
    assert not imported(code) & {"torch", "numpy", "rasterio", "cv2", "pydantic", "matplotlib", "yaml"}


def test_torch_starts_at_the_network() -> None:
    rooms = [module for module in MODULES if name(module).startswith(tuple(f"{wing}/" for wing in WITHOUT_TORCH))]
    dotted = [".".join(("landseg", *module.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__") for module in rooms]
    assert len(dotted) > 20
    found = imported("\n".join(f"import {module}" for module in dotted))
    assert "numpy" in found, "the check sees what was imported"
    assert not found & {"torch", "timm", "segmentation_models_pytorch", "lightning_fabric", "fastapi"}


@pytest.mark.parametrize("verb", ["prepare", "split", "submit", "recipe"])
def test_verbs_without_a_network_do_without_torch(verb: str) -> None:
    assert "torch" not in imported(f"import landseg.verbs.{verb}")
