"""Words on the command line into verbs; the only room that knows click. Verbs are imported inside each command, so that help is quick."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Result(Protocol):
    """What every verb returns: a text for people and a document for programs."""

    def as_text(self) -> str: ...
    def as_json(self) -> dict[str, Any]: ...


class _Verbs(click.Group):
    """Verbs in the order of a journey, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110})
@click.version_option(package_name="landseg", message="landseg %(version)s")
def main() -> None:
    """Remote-sensing images into honest land-parcel maps.

    \b
    A competition in one command:
      landseg compete train_and_label.zip img_test.zip --classes "building,farmland,forest,other" --out work
    No data at hand:
      landseg demo
    """


def runs_model(command: F) -> F:
    """What the two verbs that run a model share: an option, and that their process, which is ours, keeps its memory."""

    @wraps(command)
    def wrapped(**arguments: Any) -> Any:
        from landseg.core.allocation import keep_memory

        keep_memory()
        return command(**arguments)

    words = "Test-time augmentation: mean over eight flips and turns, or three scales. [default: predict.tta]"
    return click.option("--tta", type=click.Choice(["none", "d4", "scales"]), help=words)(wrapped)  # type: ignore[return-value]


def common(*, settings: bool = True, overwrite: bool = True) -> Callable[[F], F]:
    """The options that every verb takes, and the one place where results are printed and errors become exit codes."""

    def decorate(command: F) -> F:
        @wraps(command)
        def wrapped(*, as_json: bool, verbose: bool, debug: bool, **arguments: Any) -> None:
            _log_to_stderr(verbose or debug)
            if "set_" in arguments:
                arguments["settings"] = arguments.pop("set_")
            _finish(lambda: command(**arguments), as_json=as_json, debug=debug)

        options: list[Callable[[Any], Any]] = []
        if settings:
            options += [
                click.option("-c", "recipe", metavar="RECIPE", help="Recipe: a shipped one's name (`landseg recipe list`) or a YAML file."),
                click.option("--set", "set_", metavar="KEY=VALUE", multiple=True, help="One setting over the recipe; repeatable."),
            ]
        if overwrite:
            options.append(click.option("--overwrite", is_flag=True, help="Replace an output that exists."))
        options += [
            click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout."),
            click.option("-v", "verbose", is_flag=True, help="Say more on stderr."),
            click.option("--debug", is_flag=True, help="Show the traceback of an error."),
        ]
        result: Any = wrapped
        for option in reversed(options):
            result = option(result)
        return result  # type: ignore[no-any-return]

    return decorate


@main.command(short_help="The whole journey on an invented landscape.")
@click.option("--out", default="demo", show_default=True, metavar="DIR", help="Where everything goes.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Minutes to train. [default: the recipe's epochs]")
@common(settings=False)
def demo(**arguments: Any) -> Result:
    """The whole journey on an invented landscape: no download, no GPU, a few minutes.

    The result is a folder with the landscape, a trained model, report.html, result.zip and pictures of the predictions.
    """
    from landseg.verbs.demo import demo as verb

    return verb(**arguments)


@main.command(short_help="Zips in, result.zip out, in one command.")
@click.argument("train_source", metavar="TRAIN")
@click.argument("test_source", metavar="TEST")
@click.option("--classes", required=True, metavar="NAMES|FILE", help="Class names in the order of their ids, a file of them, or parcels4.")
@click.option("--out", required=True, metavar="DIR", help="Where everything goes.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Minutes to train. [default: the recipe's epochs]")
@common()
def compete(**arguments: Any) -> Result:
    """Zips in, result.zip out: prepare, split, train, evaluate, predict, submit.

    The result is DIR/result.zip, linted, and DIR/run with the model and its report. Run it again to go on where it stopped. Without -c the
    test tiles are predicted with test-time augmentation (--set predict.tta=none for less time).
    """
    from landseg.verbs.compete import compete as verb

    return verb(**arguments)


@main.command(short_help="Make a dataset folder of zips or folders.")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--out", required=True, metavar="DATA", help="The dataset folder to write.")
@click.option(
    "--classes", metavar="NAMES|FILE", help="Class names in the order of their ids, a file of them, or parcels4; needed for labels."
)
@click.option("--labels", metavar="PATH", help="Where the labels are, when the sources leave it open.")
@click.option("--mend", is_flag=True, help="Mend what a stated rule can, leave out what none can; dataset.yaml says which and how often.")
@common(settings=False)
def prepare(**arguments: Any) -> Result:
    """Make a dataset folder of zips or folders of tiles.

    The result is DATA/dataset.yaml and the images and labels that it names; zips are unpacked, folders are referred to.
    """
    from landseg.verbs.prepare import prepare as verb

    return verb(**arguments)


@main.command(short_help="What is in a data set, and what is wrong with it.")
@click.argument("data")
@click.option("--classes", metavar="NAMES|FILE", help="As for prepare, where DATA is no dataset folder yet.")
@click.option("--out", metavar="DIR", help="Where audit.json and audit.html go. [default: DATA/audit]")
@click.option("--require", type=click.Choice(["clean"]), help="A gate: exit code 3 when anything is wrong.")
@common(settings=False, overwrite=False)
def audit(**arguments: Any) -> Result:
    """Decode every tile of DATA and say what is in it and what is wrong with it. DATA may also be a folder that is not prepared yet.

    The result is a table, and audit.json and audit.html with thumbnails of every kind of problem.
    """
    from landseg.verbs.audit import audit as verb

    return verb(**arguments)


@main.command(short_help="Decide which tiles train and which validate.")
@click.argument("data")
@click.option("--by", type=click.Choice(["scene", "group", "random", "file"]), help="What keeps tiles together. [default: scene]")
@click.option("--groups", metavar="FILE|REGEX", help="For --by group: a CSV tile,group, or a pattern whose match in a name is the group.")
@click.option("--val", type=float, default=0.1, show_default=True, help="Share of the tiles that validate.")
@click.option("--test", type=float, default=0.0, show_default=True, help="Share of the tiles that test.")
@click.option("--folds", type=click.IntRange(2, 100), metavar="K", help="K splits NAME-1 … NAME-K instead, no tile in val of two.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the draw.")
@click.option("--name", metavar="NAME", help="Name of the split. [default: that of --by]")
@click.option("--lists", is_flag=True, help="Also PaddleX lists: DATA/splits/NAME/train_list.txt and so on.")
@click.option("--check", is_flag=True, help="Look for leaks between the parts of the split NAME; split nothing.")
@click.option("--against", metavar="TEST", help="Look for tiles of DATA that lie in TEST too; split nothing.")
@click.option("--require", type=click.Choice(["clean"]), help="For --check and --against: exit code 3 when a leak is found.")
@common(settings=False)
def split(**arguments: Any) -> Result:
    """Assign the tiles of DATA to train, val and test, or look for leaks between them.

    The result is DATA/splits/NAME.csv, a line a tile, and a table of what lies in each part; --by scene also writes NAME.edges.csv and
    NAME.html, the recovered scenes; of folds beside the first. With --check or --against it is a table and a page of what leaks.
    """
    from landseg.verbs.split import split as verb

    return verb(**arguments)


@main.command(short_help="Train a network; keep the best model.")
@click.argument("data")
@click.option("--out", required=True, metavar="RUN", help="The run folder to write.")
@click.option("--split", metavar="NAME", help="Which split. [default: the only one]")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--preview", "is_preview", is_flag=True, help="Only RUN/preview.html: tiles as the network would see them; train nothing.")
@common()
def train(is_preview: bool, **arguments: Any) -> Result:
    """Train a network on the train part of DATA; the best model by mIoU on val is kept.

    The result is RUN/model (the best model), RUN/metrics.jsonl and RUN/state, with which --resume goes on. With --preview it is a page.
    """
    if is_preview:
        from landseg.verbs.preview import preview

        arguments.pop("overwrite")  # nothing of a run is replaced
        return preview(**arguments)
    from landseg.verbs.train import train as verb

    return verb(**arguments)


@main.command(short_help="Score a model, with intervals and a report.")
@click.argument("model", nargs=-1, required=True)
@click.argument("data")
@click.option("--split", metavar="NAME", help="Which split. [default: the only one]")
@click.option("--part", type=click.Choice(["train", "val", "test", "all"]), default="val", show_default=True, help="Which part is scored.")
@click.option("--require", metavar="SCORE=LEAST", help="A gate, such as miou=0.7: exit code 3 below it.")
@runs_model
@click.option("--out", metavar="DIR", help="Where the report goes. [default: report, or report-d4 and so on, in the model's folder]")
@common(overwrite=False)
def evaluate(**arguments: Any) -> Result:
    """Score a model, or several as an ensemble, on a part of DATA.

    The result is a table of scores with 95 % intervals, and report/report.html with curves, confusion and tiles. With --tta or several
    models each is scored alone and plain too: the table then says what is gained and what it costs.
    """
    from landseg.verbs.evaluate import evaluate as verb

    return verb(**arguments)


@main.command(short_help="Predict tiles into class maps.")
@click.argument("paths", metavar="MODEL... INPUT...", nargs=-1, required=True)
@click.option("--out", required=True, metavar="OUT", help="The folder to write.")
@click.option("--overlay", is_flag=True, help="Also OUT/overlay/*.jpg: the image under the classes' colours.")
@click.option("--probabilities", is_flag=True, help="Also OUT/*.npy: float16 (classes, height, width).")
@runs_model
@common()
def predict(**arguments: Any) -> Result:
    """Predict tiles: a folder, a zip, a dataset folder or single images.

    The result is OUT/<stem>.png for each tile: class ids of the tile's size, with a palette that a viewer shows in colours.
    """
    from landseg.verbs.predict import models_first
    from landseg.verbs.predict import predict as verb

    models, inputs = models_first(arguments.pop("paths"))
    return verb(models, inputs, **arguments)


@main.command(short_help="Build or lint a competition zip.")
@click.argument("predictions", required=False)
@click.option("--images", required=True, metavar="TEST", help="The test images: dataset folder, folder or zip.")
@click.option("--out", metavar="RESULT.zip", help="The zip to write.")
@click.option("--check", metavar="RESULT.zip", help="Lint this zip and write nothing.")
@click.option("--classes", type=click.IntRange(1, 255), metavar="N", help="Number of classes. [default: as predicted]")
@common(settings=False)
def submit(**arguments: Any) -> Result:
    """Build a competition zip of predicted tiles and lint it, or lint one that exists.

    The result is a zip of greyscale PNGs, one a test image; it is written only when it passes. Exit code 3 when it does not.
    """
    from landseg.verbs.submit import submit as verb

    return verb(**arguments)


@main.group(short_help="Recipes, and what every setting means.")
def recipe() -> None:
    """Recipes: what is set where, and what every setting means.

    The result is text on stdout; `landseg recipe show default > mine.yaml` begins a recipe of your own.
    """


@recipe.command("list")
@common(settings=False, overwrite=False)
def recipe_list() -> Result:
    """Name the shipped recipes.

    The result is a line a recipe.
    """
    from landseg.verbs.recipe import recipe_list as verb

    return verb()


@recipe.command("show")
@click.argument("name")
@common(settings=False, overwrite=False)
def recipe_show(**arguments: Any) -> Result:
    """Show a recipe and every setting with its meaning, unit and default.

    The result is YAML that `-c` reads back.
    """
    from landseg.verbs.recipe import recipe_show as verb

    return verb(**arguments)


def _finish(work: Callable[[], Result], *, as_json: bool, debug: bool) -> None:
    """Run a verb, print its result, and end with the contract's exit code."""
    from landseg.core.errors import LandsegError

    try:
        result = work()
        click.echo(json.dumps(result.as_json(), ensure_ascii=False) if as_json else result.as_text())
    except LandsegError as error:
        if debug:
            traceback.print_exc()
        if error.result is not None:
            click.echo(json.dumps(error.result.as_json(), ensure_ascii=False) if as_json else error.result.as_text())
        click.echo(f"landseg: {error}", err=True)
        sys.exit(3 if error.is_gate else 2)
    except KeyboardInterrupt:
        click.echo("landseg: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of stdout has gone (`| head`); Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _log_to_stderr(verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("landseg")
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.propagate = False


def run() -> None:
    """The command `landseg`: like `main`, with wrong usage told in one line."""
    try:
        sys.exit(main(standalone_mode=False, prog_name="landseg"))
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "landseg"
        click.echo(f"{path}: {error.format_message().rstrip('.')}; `{path} --help` shows what there is", err=True)
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
