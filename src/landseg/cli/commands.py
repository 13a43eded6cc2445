"""Words on the command line into verbs. Verbs are imported inside each command, so that help is quick."""

from __future__ import annotations

from typing import Any

import click

from landseg.cli.frame import Result, Verbs, WithDefault, common, runs_model


@click.group(cls=Verbs, context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110})
@click.version_option(package_name="landseg", message="landseg %(version)s")
def main() -> None:
    """Remote-sensing images into honest land-parcel maps.

    \b
    A competition in one command:
      landseg compete train_and_label.zip img_test.zip --classes "building,farmland,forest,other" --out work
    No data at hand:
      landseg demo
    """


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


@main.command(short_help="Make a dataset folder of zips, folders or scenes.")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--out", required=True, metavar="DATA", help="The dataset folder to write.")
@click.option(
    "--classes", metavar="NAMES|FILE", help="Class names in the order of their ids, a file of them, or parcels4; needed for labels."
)
@click.option("--labels", metavar="PATH", help="Where the labels are, when the sources leave it open.")
@click.option("--mend", is_flag=True, help="Mend what a stated rule can, leave out what none can; dataset.yaml says which and how often.")
@click.option("--tile", type=click.IntRange(16, 8192), metavar="N", help="Cut scenes into tiles of N × N pixels.")
@click.option(
    "--resolution",
    type=click.FloatRange(min=0, min_open=True),
    metavar="M",
    help="True metres a pixel of the tiles. [default: the scenes' own]",
)
@click.option("--class-column", metavar="C", help="The column of vector labels that names the class.")
@click.option("--background", metavar="CLASS|ignore", help="What lies where labels say nothing. [default: ignore]")
@click.option("--pack", is_flag=True, help="No tile as a file of its own: images.zip, labels.zip and, at once, the pack that trains.")
@common()
def prepare(**arguments: Any) -> Result:
    """Make a dataset folder of zips or folders of tiles; with --tile, of scenes with label rasters or vector layers.

    The result is DATA/dataset.yaml and the images and labels that it names; zips are unpacked, or with --pack referred to, as folders are;
    scenes are cut.
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
    from landseg.verbs.launch import launch

    launch(arguments["out"], arguments["recipe"], arguments["settings"], resume=arguments["resume"])
    from landseg.verbs.train import train as verb

    return verb(**arguments)


@main.command(short_help="Score a model with intervals and a report, or a map.")
@click.argument("paths", metavar="MODEL... DATA | MAP", nargs=-1, required=True)
@click.option("--split", metavar="NAME", help="Which split. [default: the only one]")
@click.option("--part", type=click.Choice(["train", "val", "test", "all"]), default="val", show_default=True, help="Which part is scored.")
@click.option("--require", metavar="SCORE=LEAST", help="A gate, such as miou=0.7, or f1=0.5 of a map: exit code 3 below it.")
@runs_model
@click.option("--out", metavar="DIR", help="Where the report goes. [default: report, or report-d4 and so on, in the model's folder]")
@click.option("--against", metavar="PARCELS", help="Score MAP against these polygons or this raster; --out then takes its objects.")
@common(overwrite=False)
def evaluate(paths: tuple[str, ...], **arguments: Any) -> Result:
    """Score a model, or several as an ensemble, on a part of DATA; or a MAP against reference PARCELS.

    The result is a table of scores with 95 % intervals, and report/report.html with curves, confusion and tiles. With --tta or several
    models each is scored alone and plain too: the table then says what is gained and what it costs.

    A MAP is a class raster or a layer of polygons. The result is a line a class: objects found and missed, F1 at IoU 0.5, panoptic
    quality, over- and under-segmentation, outlines; of two rasters also the scores of their pixels. Name the class column of PARCELS with
    --set score.class_column=C, unless it is class_name; the tolerance of outlines with --set score.tolerance_m=T.
    """
    from landseg.verbs.evaluate import evaluate as verb

    is_model = arguments["against"] is None and len(paths) > 1
    result: Result = verb(paths[:-1], paths[-1], **arguments) if is_model else verb(paths, **arguments)
    return result


@main.command(short_help="Predict tiles or whole scenes into class maps.")
@click.argument("paths", metavar="MODEL... INPUT...", nargs=-1, required=True)
@click.option("--out", required=True, metavar="OUT", help="The folder to write.")
@click.option("--bounds", type=float, nargs=4, metavar="L B R T", help="Only this part of a scene, in units of its CRS.")
@click.option("--confidence", is_flag=True, help="Also OUT/<stem>_confidence.tif of a scene: how probable its class is.")
@click.option("--overlay", is_flag=True, help="Also the image under the colours: OUT/overlay/*.jpg, of a scene <stem>_overlay.png.")
@click.option("--probabilities", is_flag=True, help="Also those of every class: OUT/*.npy, of a scene <stem>_probabilities.tif.")
@runs_model
@common()
def predict(**arguments: Any) -> Result:
    """Predict tiles (a folder, a zip, a dataset folder, single images) or scenes (GeoTIFF, COG, VRT, URL).

    The result is OUT/<stem>.png for each tile: class ids of the tile's size, with a palette that a viewer shows in colours; for each scene
    OUT/<stem>_classes.tif on the scene's own grid, a style for QGIS and a picture with legend.
    """
    from landseg.verbs.predict import models_first
    from landseg.verbs.predict import predict as verb

    models, inputs = models_first(arguments.pop("paths"))
    return verb(models, inputs, **arguments)


@main.command(short_help="A model as files for other programs: ONNX, OpenVINO.")
@click.argument("model")
@click.option("--to", type=click.Choice(["onnx", "openvino"]), default="onnx", show_default=True, help="The format.")
@click.option("--out", required=True, metavar="DIR", help="The folder to write.")
@click.option("--int8", metavar="DATA", help="Compute in 8 bits; ranges and the loss of mIoU are measured on val of this data set.")
@click.option("--split", metavar="NAME", help="Which split of DATA. [default: the only one]")
@click.option("--max-loss", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="Loss of mIoU above which int8 is refused.")
@common(settings=False)
def export(**arguments: Any) -> Result:
    """Write a trained model as files that other programs run; nothing is kept that does not agree with the model as it was trained.

    The result is DIR: the network (normalisation inside, any batch, height and width), model.json with classes, colours and bands, a STAC
    Item with the Machine Learning Model extension, README.md; of 8-bit images also qgis.onnx for QGIS's plugin Deepness. DIR is itself a
    model for every command. With --int8 what it costs and gains is printed; exit code 3 when it loses too much.
    """
    from landseg.verbs.export import export as verb

    return verb(**arguments)


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


@main.command(short_help="Polygons of a class raster, without gaps or overlaps.")
@click.argument("classes", metavar="CLASSES.tif")
@click.option(
    "--out", required=True, metavar="PARCELS.gpkg", help="The layer: .gpkg, .parquet, .fgb or .geojson; a .qml and an .html come beside it."
)
@click.option("--min-area-m2", type=float, default=0.0, metavar="A", help="Give smaller areas to their neighbours. [default: keep all]")
@click.option("--tolerance-m", type=float, default=0.0, metavar="T", help="Simplify borders by about this much. [default: pixel edges]")
@click.option("--smooth", is_flag=True, help="Take the stairs of the pixels out of borders between parcels; areas stay.")
@click.option("--scene", metavar="SCENE.tif", help="The ground that the page shows beneath the parcels. [default: none]")
@click.option(
    "--instances",
    is_flag=False,
    flag_value="boundary",
    metavar="[CLASS]",
    help="Keep touching parcels of a class apart by the class that lies between them, which is dissolved; boundary when none is named: "
    "then write it after CLASSES.tif.",
)
@common(settings=False)
def parcels(**arguments: Any) -> Result:
    """Make polygons of a class raster: neighbours share their borders, nothing is left out and nothing is covered twice.

    The result is a layer with one polygon a parcel: class_id, class_name, area_m2, perimeter_m (on the ellipsoid) and confidence.
    Beside it lies a page that shows them: classes, borders and, with --scene, the ground, with a legend and the figures of each parcel.
    """
    from landseg.verbs.parcels import parcels as verb

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


@main.group(cls=WithDefault, short_help="What was trained, with what, how well.")
def runs() -> None:
    """What was trained, with what, how well: `landseg runs [DIR]` lists the runs in DIR and below it.

    The result is a line a run: its best score, how far it came, what it takes on the disk, whether it is running, finished or interrupted.
    """


@runs.command("list", short_help="List the runs; what `landseg runs` alone does.")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--by", type=click.Choice(["score", "time"]), default="score", show_default=True, help="The best first, or the latest.")
@common(settings=False, overwrite=False)
def runs_list(**arguments: Any) -> Result:
    """List the runs in DIR and below it. Without DIR: in `runs`, where there is one, or here.

    The result is a line a run: its best score, how far it came, what it takes on the disk, whether it is running, finished or interrupted.
    """
    from landseg.verbs.runs import runs as verb

    return verb(**arguments)


@runs.command("compare", short_help="What differs between runs: settings, scores, curves.")
@click.argument("folders", metavar="RUN RUN...", nargs=-1, required=True)
@click.option("--out", metavar="PAGE.html", help="The page to write. [default: comparison.html]")
@common(settings=False)
def runs_compare(**arguments: Any) -> Result:
    """Lay runs side by side: settings that differ, scores of each class, and whether they are of the same ground.

    The result is a table, and one page with the curves of all. The first run is what the others are compared with.
    """
    from landseg.verbs.runs import runs_compare as verb

    return verb(**arguments)


@runs.command("prune", short_help="Free what runs need no more.")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--unfinished", is_flag=True, help="The states of interrupted runs too: they can then not be resumed.")
@click.option("--yes", is_flag=True, help="Remove it; without this nothing is removed.")
@common(settings=False, overwrite=False)
def runs_prune(**arguments: Any) -> Result:
    """Show what the runs in DIR need no more, and free it with --yes: states of finished runs, and what killed processes left half-written.

    The result is a line a run with what it frees. Models, metrics and reports stay, and so does a run that a process is writing.
    """
    from landseg.verbs.runs import runs_prune as verb

    return verb(**arguments)


@main.command(short_help="What this machine has, and what will be slow on it.")
@click.argument("data", required=False)
@click.option("--quick", is_flag=True, help="Measure nothing; only say what there is.")
@common(settings=False, overwrite=False)
def doctor(**arguments: Any) -> Result:
    """Look at machine, GPU, GDAL and disk, and measure for half a minute how fast they are; with DATA, on tiles of that data set.

    The result is what there is, how fast it is, what will be slow and what to change. Exit code 2 when landseg cannot work here.
    """
    from landseg.verbs.doctor import doctor as verb

    return verb(**arguments)
