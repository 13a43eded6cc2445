"""Recipes: what is wrong in one is said with its key, its value, what is needed and the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core.config import (
    fields,
    load_recipe,
    parse_recipe,
    parse_yaml,
    recipe_names,
    recipe_text,
    to_yaml,
)
from landseg.core.errors import LandsegError
from landseg.core.settings import AugmentConfig, LossConfig, ModelConfig, Recipe, TrainConfig


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_parses(name: str) -> None:
    recipe = load_recipe(name)
    assert load_recipe(name, []) == recipe
    assert parse_recipe(parse_yaml(to_yaml(recipe))) == recipe
    assert recipe_text(name).startswith("#")


def test_default_is_first_and_is_what_no_name_gives() -> None:
    assert recipe_names()[0] == "default"
    assert load_recipe() == load_recipe("default")


def test_settings_override_the_recipe_and_the_recipe_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("train:\n  lr: 1e-3\n  epochs: 7\n", encoding="utf-8")
    recipe = load_recipe(path, ["train.epochs=9", "train.minutes=1.5", "predict.bands=[4, 1]", "model.encoder=resnet18"])
    assert (recipe.train.lr, recipe.train.epochs, recipe.train.minutes) == (0.001, 9, 1.5)
    assert (recipe.predict.bands, recipe.model.encoder, recipe.train.batch) == ((4, 1), "resnet18", TrainConfig().batch)


_WEIGHTS = "one of none | inverse | effective | list[float]"


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("train.accumulate=2", ("train.accumulate is a setting no more", "train.effective_batch says", "train.batch times")),
        ("loss.name=lovasz", ("loss.name is a setting no more", "loss.lovasz")),
        ("train.lrr=1", ("no setting is called train.lrr", "did you mean train.lr?")),
        ("trian.lr=1", ("trian", "did you mean train")),
        ("batch=4", ("no setting is called batch", "train.batch")),
        ("train.lr.x=1", ("no setting is called train.lr.x", "did you mean train.lr?")),
        ("train.lr=fast", ("--set train.lr=fast: train.lr", "'fast'", "valid number", "highest learning rate")),
        ("train.lr='0.1'", ("train.lr", "'0.1'", "valid number")),
        ("train.lr=true", ("train.lr", "True", "valid number")),
        ("train.lr=-1", ("train.lr", "-1", "greater than 0")),
        ("train.lr=.inf", ("train.lr", "inf", "finite")),
        ("train.minutes=.nan", ("train.minutes", "nan", "finite")),
        ("train.epochs=1.5", ("train.epochs", "1.5", "integer")),
        ("train.epochs=0", ("train.epochs", "0", "greater than or equal to 1")),
        ("train.compile=no", ("train.compile", "'no'", "boolean")),
        ("train.compile=1", ("train.compile", "1", "boolean")),
        ("model.network=unett", ("model.network", "'unett'", "'unet'")),
        ("model.weights=", ("model.weights", "None", "string")),
        ("augment.blur=2", ("augment.blur", "2", "less than or equal to 1")),
        ("loss.class_weights=[1, x]", ("--set loss.class_weights=[1, x]: loss.class_weights.1: 'x'", "valid number", _WEIGHTS)),
        ("loss.class_weights=[1, .inf]", ("loss.class_weights.1: inf", "finite", _WEIGHTS)),
        ("loss.class_weights=invers", ("loss.class_weights: 'invers', one of", _WEIGHTS, "weights of the classes")),
        ("loss.class_weights=3", ("loss.class_weights: 3, one of", _WEIGHTS)),
        ("loss.class_weights=true", ("loss.class_weights: True, one of", _WEIGHTS)),
        ("loss.class_weights={a: 1}", ("loss.class_weights: {'a': 1}, one of", _WEIGHTS)),
        ("loss.class_weights.a=1", ("loss.class_weights: {'a': 1}, one of", _WEIGHTS)),
        ("loss.cross_entropy=0", ("--set loss.cross_entropy=0: all terms weigh nothing", "give one a weight")),
        ("loss.hardest=0", ("loss.hardest", "greater than 0")),
        ("augment.scale=1", ("augment.scale: 1, input should be a list",)),
        ("augment.scale=[1]", ("--set augment.scale=[1]: augment.scale: [1], a list of 2 numbers",)),
        ("augment.scale=[1, 1, 1]", ("augment.scale: [1, 1, 1], a list of 2 numbers",)),
        ("augment.scale=[1, x]", ("augment.scale.1: 'x'", "valid number")),
        ("augment.scale=[2, 1]", ("augment.scale: [2, 1], two factors", "smaller one first")),
        ("train=5", ("--set train=5: train", "5", "landseg recipe show default")),
        (
            "train.epochs=null",
            ("--set train.epochs=null: train.epochs and train.minutes are both null", "never end", "--set train.minutes=30"),
        ),
        (
            "train.average=0.25",
            (
                "--set train.average=0.25: train.ema=0.99 and train.average=0.25 are both set, one average of the weights;",
                "; --set train.ema=null, or --set train.average=null",
            ),
        ),
        ("train.lr", ("no key=value", "--set train.lr=0.01")),
        ("=3", ("no key=value",)),
        ("train.lr=[1", ("not YAML",)),
        ("train.lr=!!int abc", ("not YAML",)),
        ("train.lr=!!timestamp abc", ("not YAML",)),
        ("train.lr=*alias", ("not YAML",)),
        ("train.lr=!!python/object/apply:os.getcwd []", ("not YAML",)),
    ],
)
def test_a_setting_that_is_wrong_says_which_and_why(setting: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(LandsegError) as caught:
        load_recipe(None, [setting])
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
    assert "literal[" not in str(caught.value) and "tuple" not in str(caught.value) and "Value error" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("train: {lr: abc}", ("bad.yaml: train.lr", "'abc'", "valid number")),
        ("train: {epoch: 3}", ("bad.yaml", "train.epoch", "did you mean train.epochs?")),
        ("optimizer: {lr: 1}", ("bad.yaml", "optimizer")),
        ("- 1", ("bad.yaml", "not a tree")),
        ("train: 5", ("bad.yaml", "not a tree")),
        ("train: {1: 2}", ("bad.yaml", "train.1")),
        ("1: {a: 2}", ("bad.yaml",)),
        ("train: [", ("bad.yaml", "not YAML")),
        ("train:\n\tlr: 1", ("bad.yaml", "not YAML")),
    ],
)
def test_a_recipe_file_that_is_wrong_is_named(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LandsegError) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_settings_that_do_not_fit_together_are_said_of_who_set_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("train: {epochs: null, average: 0.25}\n", encoding="utf-8")
    with pytest.raises(LandsegError, match=r"mine\.yaml: train\.epochs and train\.minutes are both null"):
        load_recipe(path)
    with pytest.raises(LandsegError, match=r"^--set train\.ema=0\.9: train\.ema=0\.9 and train\.average=0\.25"):
        load_recipe(path, ["train.epochs=2", "train.ema=0.9"])
    with pytest.raises(LandsegError, match=r"^--set train\.minutes=null: train\.epochs and"):
        load_recipe(path, ["train.minutes=null"])
    kept = load_recipe(None, ["train.average=0.25", "train.ema=null"]).train
    assert (kept.ema, kept.average) == (None, 0.25)


def test_files_that_hold_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "gbk.yaml").write_bytes("# 学习率\n".encode("gbk"))
    (tmp_path / "folder.yaml").mkdir()
    for name, found in [("gbk.yaml", "UTF-8"), ("folder.yaml", "directory"), ("none.yaml", "No such file")]:
        with pytest.raises(LandsegError, match=found):
            load_recipe(tmp_path / name)
    with pytest.raises(LandsegError, match="did you mean tiny"):
        load_recipe("tinny")


def test_a_file_or_a_section_with_everything_commented_out_is_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for text in ("", "# train:\n", "train:\n  # lr: 1\nloss:\n"):
        path.write_text(text, encoding="utf-8-sig")
        assert load_recipe(path) == Recipe()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("4E5", 4e5), ("+.5", 0.5), ("3.", 3.0), ("-7", -7), ("089", 89), ("010", 10), ("0o17", "0o17"), ("1:30", "1:30"),
        ("no", "no"), ("Off", "Off"), ("y", "y"), ("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None),
        (".INF", float("inf")), ("1_000", "1_000"), ("0x1F", "0x1F"), ("e5", "e5"), (".", "."), ("-", [None]), ("'1e3'", "1e3"),
        ("2020-01-01", "2020-01-01"), ("<<", "<<"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = parse_yaml(text)
    assert found == value and type(found) is type(value)


_WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1) | st.sampled_from(
    ["1e5", "1.", "no", "yes", "0o17", "089", "null", "~", "1:30", ".5", "-1e-3", "=", "<<", "true", "# x", "a: b", "[1]", "耕地.pth"]
)
_FLOATS = st.floats(1e-300, 1e300)


@settings(max_examples=200, deadline=None)
@given(
    _WORDS,
    _FLOATS,
    st.none() | _FLOATS,
    st.sampled_from([None, "inverse"]) | st.lists(st.floats(0, 1e9), min_size=1, max_size=4),
    st.floats(0, 180),
    st.booleans(),
)
def test_what_is_written_is_read_back_equal(
    weights: str, lr: float, minutes: float | None, class_weights: list[float] | str | None, rotation: float, flips: bool
) -> None:
    recipe = Recipe(
        model=ModelConfig(weights=weights),
        train=TrainConfig(lr=lr, minutes=minutes, precision="16"),
        augment=AugmentConfig(rotation_deg=rotation, flips=flips),
        loss=LossConfig(class_weights=tuple(class_weights) if isinstance(class_weights, list) else class_weights),
    )
    assert parse_recipe(parse_yaml(to_yaml(recipe))) == recipe


def test_other_yaml_readers_read_the_words_alike() -> None:
    recipe = Recipe(model=ModelConfig(weights="no", encoder="1e5"))
    model = yaml.safe_load(to_yaml(recipe))["model"]
    assert (model["network"], model["encoder"], model["weights"]) == ("deeplabv3plus", "1e5", "no")


def test_whole_numbers_stand_for_floats_and_bits_for_words() -> None:
    recipe = load_recipe(None, ["train.lr=1", "loss.class_weights=[1, 2]", "train.precision=32"])
    assert recipe.train.lr == 1.0 and recipe.loss.class_weights == (1, 2) and recipe.train.precision == "32"


@pytest.mark.parametrize(
    ("text", "value"), [("null", "none"), ("none", "none"), ("effective", "effective"), ("[1, 0.5]", (1, 0.5)), ("[]", ())]
)
def test_class_weights_are_a_word_or_a_list_and_nothing_is_none(text: str, value: object) -> None:
    assert load_recipe(None, [f"loss.class_weights={text}"]).loss.class_weights == value


def test_types_are_said_in_words_that_a_recipe_writer_knows() -> None:
    kinds = {key: kind for key, kind, *_ in fields()}
    assert kinds["loss.class_weights"] == "none | inverse | effective | list[float]"
    assert (kinds["train.epochs"], kinds["predict.bands"], kinds["model.encoder"]) == ("int | null", "list[int | str] | null", "str")
    assert (kinds["augment.scale"], kinds["train.optimiser"]) == ("list[float, float]", "sgd | adamw")


@pytest.mark.parametrize("key", [f"loss.{name}" for name in LossConfig.model_fields if name != "class_weights"])
def test_every_number_of_the_loss_can_be_set(key: str) -> None:
    section, name = key.split(".")
    assert getattr(getattr(load_recipe(None, [f"{key}=0.5"]), section), name) == 0.5


def test_every_setting_says_what_it_means() -> None:
    known = list(fields())
    assert {"model.network", "model.encoder", "model.weights", "train.lr", "predict.batch"} <= {key for key, *_ in known}
    for key, kind, value, text in known:
        assert len(text) > 10, key
        assert "typing" not in kind and "class '" not in kind and "None" not in kind, (key, kind)
        section, name = key.split(".")
        default = getattr(getattr(Recipe(), section), name)
        assert parse_yaml(value) == (list(default) if isinstance(default, tuple) else default), key


def test_a_recipe_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().train.lr = 1.0  # type: ignore[misc]
