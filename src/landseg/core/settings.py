"""Every setting: one section a room that has knobs, each field with its meaning, unit and default. It reads no recipe and no machine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from landseg.core.section import Section
from landseg.core.settings_augment import AugmentConfig

__all__ = [
    "NETWORKS",
    "AugmentConfig",
    "CutConfig",
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "PredictConfig",
    "Recipe",
    "SampleConfig",
    "ScoreConfig",
    "TrainConfig",
]

NETWORKS = ("deeplabv3plus", "unet", "unetplusplus", "fpn", "pspnet", "linknet", "manet", "pan", "upernet", "segformer", "dpt")


class ModelConfig(Section):
    """Which network, and where its weights begin."""

    network: Literal["deeplabv3plus", "unet", "unetplusplus", "fpn", "pspnet", "linknet", "manet", "pan", "upernet", "segformer", "dpt"] = (
        Field("deeplabv3plus", description="decoder, by the name that segmentation_models_pytorch gives it")
    )
    encoder: str = Field("mobilenetv3_large_100", description="encoder: a timm name, or one of segmentation_models_pytorch's own")
    decoder_channels: tuple[int, ...] | None = Field(
        None,
        min_length=5,
        max_length=5,
        description="channels of the decoder's five stages, deepest first (unet, unetplusplus, manet); null takes the network's own",
    )
    weights: str = Field(
        "imagenet",
        description="where the weights begin: imagenet | none | path of a safetensors or pth file with the encoder's | hf-hub:owner/name | "
        "a run folder or model folder of landseg, of which every tensor that fits is taken",
    )


class TrainConfig(Section):
    """How long, how fast and on what to train."""

    epochs: int | None = Field(60, ge=1, description="epochs to train; the learning rate's schedule ends there")
    minutes: float | None = Field(
        None, gt=0, description="minutes to train, validation included; when set it ends the run and the schedule in place of train.epochs"
    )
    batch: int | Literal["auto"] = Field(
        16, description="tiles (or crops of them) that the network sees at once; auto measures what the free memory allows"
    )
    effective_batch: int | None = Field(
        None,
        ge=1,
        le=65536,
        description="tiles that each step learns from, shown to the network train.batch at a time; null takes train.batch, 16 where that "
        "is auto",
    )
    crop: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="edge length in pixels of the square crops that training takes of larger tiles, as many an epoch as cover their area; "
        "null takes the shape that most training tiles have, or 512 where that is longer than 1024 a side",
    )
    size: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="edge length in pixels to which training tiles (or crops) are resized, larger or smaller ones by the same factor, "
        "predicted ones too; null keeps their own",
    )
    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="sgd (momentum, Nesterov) or adamw")
    lr: float = Field(0.01, gt=0, description="highest learning rate")
    encoder_lr: float = Field(1.0, gt=0, le=10, description="learning rate of the encoder, as a share of train.lr")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="factor by which each stage of the encoder learns slower than the next deeper one"
    )
    freeze: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the run in which the encoder keeps its weights and statistics, to learn at once at its full rate after "
        "that; 1 trains the decoder alone",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd, first beta of adamw")
    nesterov: bool = Field(True, description="Nesterov's form of sgd's momentum")
    weight_decay: float = Field(4e-5, ge=0, description="weight decay; biases and normalisation layers have none")
    schedule: Literal["polynomial", "cosine", "one_cycle", "constant"] = Field(
        "polynomial",
        description="how the learning rate falls: polynomial (power 0.9), half a cosine, one_cycle (rises for 30 % of the run, falls to "
        "almost nothing, momentum the other way) or constant",
    )
    warmup: float = Field(
        0.02, ge=0, lt=1, description="share of the run in which the learning rate rises, from a tenth of the highest; not in one_cycle"
    )
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient; null does not clip")
    on_nan: Literal["stop", "skip", "rollback"] = Field(
        "stop",
        description="what becomes of a step whose loss or gradients are NaN or infinite: stop ends the run and keeps its last state; skip "
        "leaves the step out, and ten in a row end the run; rollback goes back to the last state at half the learning rate, three times "
        "at most",
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay a step of the weights' moving average that is validated and kept; null keeps the weights"
    )
    average: float | None = Field(
        None, gt=0, le=1, description="share of the run, at its end, over which the weights are averaged evenly; in place of train.ema"
    )
    patience: int | None = Field(
        None, ge=1, description="validations without a better mIoU after which the run stops early; null never does"
    )
    validate_every: int = Field(1, ge=1, description="epochs between validations; the last epoch is always validated")
    save_minutes: float = Field(
        10.0,
        gt=0,
        description="minutes between states within an epoch; its end saves one too, where that takes less than 5 % of the time",
    )
    disk_gb: float | None = Field(
        None, gt=0, description="gigabytes that the run folder may take; a run that could need more is refused at its start, with numbers"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of every random draw")
    precision: Literal["auto", "32", "bf16", "16"] = Field(
        "auto", description="arithmetic: 32, bf16 or 16 bits; auto takes bf16 on a GPU that has it, else 32"
    )
    compile: bool = Field(
        False,
        description="compile the network with torch.compile (needs a C++ compiler, on a GPU Triton; pays on runs of many steps); where "
        "that fails, training says so and goes on uncompiled",
    )
    device: str = Field("auto", description="auto | cpu | cuda | cuda:1 | mps")
    devices: int | Literal["auto"] = Field(
        1,
        description="processes that share each step on this machine, each with a GPU of its own, or all on its CPU; auto starts one a GPU; "
        "under torchrun, 1 and auto take as many as it started",
    )

    @property
    def step_tiles(self) -> int:
        """Tiles that one step of the optimiser learns from."""
        return self.effective_batch or (16 if self.batch == "auto" else self.batch)

    @model_validator(mode="after")
    def _one_average(self) -> TrainConfig:
        if self.ema is not None and self.average is not None:
            both = f"train.ema={self.ema:g} and train.average={self.average:g} are both set"
            raise ValueError(f"{both}; one average of the weights; --set train.ema=null, or --set train.average=null")
        return self

    @field_validator("batch")
    @classmethod
    def _some_tiles(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 1 <= value <= 65536:
            raise ValueError("1 to 65536 tiles, or auto")
        return value

    @field_validator("devices")
    @classmethod
    def _some_processes(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 1 <= value <= 1024:
            raise ValueError("1 to 1024 processes, or auto")
        return value

    @field_validator("precision", mode="before")
    @classmethod
    def _bits(cls, value: object) -> object:
        return str(value) if type(value) is int else value  # `precision: 32` is what a person writes


class CutConfig(Section):
    """How `prepare` cuts scenes into tiles."""

    bands: tuple[int | str, ...] | None = Field(
        None,
        min_length=1,
        description="bands of scenes to keep, in order: by number from 1, name (red) or wavelength (665nm: nearest, within 3 %); null: all",
    )
    nodata: float | None = Field(
        None, description="the value that means missing in bands of scenes that state none themselves, in the file's own units"
    )
    min_valid: float = Field(0.25, ge=0, le=1, description="share of a tile that must show ground; tiles with less are dropped")
    min_labelled: float = Field(
        0.0, ge=0, le=1, description="share of a tile that must be labelled; tiles with less, or without one labelled pixel, are dropped"
    )
    buffer_m: float | None = Field(
        None, gt=0, description="metres to either side by which lines, and points, of vector labels become areas; null refuses them"
    )
    burn: Literal["file", "area"] = Field(
        "file", description="which polygon of vector labels lies on top: the later one (file), or the smaller one (area)"
    )
    boundary_m: float | None = Field(
        None,
        gt=0,
        lt=1e6,
        description="metres in width, one pixel at least, by which outlines of polygons are drawn as a last class, boundary, which keeps "
        "touching objects apart; null draws none",
    )


class DataConfig(Section):
    """How tiles reach the training loop."""

    pack: bool = Field(True, description="decode all tiles once into a memory-mapped file; false decodes them anew each epoch")
    workers: int | None = Field(None, ge=1, description="threads that decode; null uses every core")
    residency: Literal["auto", "device", "host", "disk"] = Field(
        "auto",
        description="where the training tiles lie during a run: device (copied to the GPU once), host (read into memory once) or disk (the "
        "pack, read ahead); on an NVIDIA GPU auto takes the first of these where they fill half of what is free at most, elsewhere "
        "disk; batches are the same",
    )


class SampleConfig(Section):
    """Which tiles an epoch is made of."""

    drop_unlabelled: bool = Field(True, description="leave out tiles without a labelled pixel: they teach nothing")
    repeat: float = Field(
        1.0,
        ge=1,
        le=100,
        description="how often at most a tile of a rare class comes, against one without, in an epoch as long as before; 1 draws all alike",
    )
    rare: float = Field(
        0.1,
        gt=0,
        le=1,
        description="a class is rare below this share of the labelled pixels; its tiles come sqrt(rare / share) times as often where they "
        "hold that many times its share, and less often in proportion where they hold less",
    )


class LossConfig(Section):
    """What training lowers: a weighted sum of terms over the labelled pixels of the batch."""

    cross_entropy: float = Field(1.0, ge=0, description="weight of the cross-entropy")
    lovasz: float = Field(0.0, ge=0, description="weight of the Lovász-softmax loss, which lowers 1 - IoU itself")
    dice: float = Field(0.0, ge=0, description="weight of the Dice loss (of the classes that the batch holds)")
    tversky: float = Field(0.0, ge=0, description="weight of the Tversky loss")
    focal: float = Field(0.0, ge=0, description="weight of the focal loss: cross-entropy that weighs easy pixels less")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each target spread over all classes (cross-entropy)")
    class_weights: Literal["none", "inverse", "effective"] | tuple[float, ...] = Field(
        "none",
        description="weights of the classes in cross-entropy and focal loss: none | inverse (one over the share of the train part's "
        "pixels) | effective (the same for rare ones, alike for frequent ones) | a list in the order of the ids",
    )
    hardest: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the labelled pixels, those of the highest loss, that cross-entropy is taken of (OHEM); 1 takes all",
    )
    boundary: float = Field(
        0.0, ge=0, description="how much more a pixel near a border between classes weighs in cross-entropy; 0 is alike"
    )
    boundary_px: float = Field(
        3.0, gt=0, le=64, description="pixels from a border at which that extra weight has fallen to 1/e, as a Gaussian does"
    )
    focal_gamma: float = Field(2.0, ge=0, le=10, description="gamma of the focal loss")
    tversky_alpha: float = Field(
        0.3, ge=0, le=1, description="weight of false positives in the Tversky loss; false negatives weigh the rest"
    )
    auxiliary: float = Field(
        0.0, ge=0, le=1, description="weight of a second head on the encoder's last but one stage, which trains along and is not kept"
    )

    @field_validator("class_weights", mode="before")
    @classmethod
    def _nothing_is_none(cls, value: object) -> object:
        return "none" if value is None else value  # `class_weights: null` is what a person writes

    @model_validator(mode="after")
    def _has_terms(self) -> LossConfig:
        if not any((self.cross_entropy, self.lovasz, self.dice, self.tversky, self.focal)):
            raise ValueError("all terms weigh nothing, so there is nothing to lower; give one a weight above 0")
        return self


class PredictConfig(Section):
    """How a trained model is run."""

    batch: int = Field(16, ge=1, description="tiles a step of the network; scenes go in steps of a fixed size, for the same bytes")
    device: str = Field("auto", description="auto | cpu | cuda | cuda:1 | mps")
    engine: Literal["auto", "torch", "onnx", "openvino"] = Field(
        "auto",
        description="what runs the network: torch | onnx (ONNX Runtime, CPU alone) | openvino (CPU alone; pip install landseg[openvino]); "
        "auto takes torch on a GPU and onnx on a CPU, or torch there too for a network that cannot be converted",
    )
    precision: Literal["32", "bf16", "16"] = Field(
        "32",
        description="arithmetic of torch: 32, or 16 bits on a GPU, as bf16 (also on a CPU; any range, 3 digits) or 16 (up to 65,504, 4 "
        "digits), which is faster and gives a few pixels near borders another class; onnx and openvino compute in 32",
    )
    bands: tuple[int | str, ...] | None = Field(
        None,
        description="which bands of each image to use, by number from 1, of scenes also by name (red) or by wavelength (665nm); null uses "
        "all, or those of a scene that are called as the model's",
    )
    tta: Literal["none", "d4", "scales"] = Field(
        "none",
        description="test-time augmentation: the mean of the probabilities over the eight flips and quarter turns (d4), or over those of "
        "three scales (scales)",
    )
    overlap: float = Field(
        0.25, ge=0, le=0.75, description="share of a window's edge that neighbouring windows of a scene have in common, and are blended in"
    )
    window: int | None = Field(
        None,
        ge=32,
        le=4096,
        description="edge length in pixels of the windows of a scene; null shows the network 512 pixels a side, or a training tile where "
        "that is larger",
    )
    exact: bool = Field(False, description="refuse a scene of another resolution than the model's, which is otherwise resampled for it")

    @field_validator("precision", mode="before")
    @classmethod
    def _bits(cls, value: object) -> object:
        return str(value) if type(value) is int else value  # `precision: 16` is what a person writes


class ScoreConfig(Section):
    """How a map is scored against a reference (`landseg evaluate MAP --against PARCELS`)."""

    classes: tuple[str, ...] | None = Field(None, description="names of the classes that are scored; null scores all of the reference")
    class_column: str | None = Field(
        None,
        min_length=1,
        description="the column that tells the class of the reference's polygons, and of the map's where it has that column; null reads "
        "class_name, or takes all polygons for one class where there is none",
    )
    tolerance_m: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="metres within which outlines agree; null takes two pixels of the map, of the reference where that alone is a raster, "
        "or 1 m",
    )
    only: str | None = Field(
        None,
        description="the class of all polygons of a layer without class column, by name or number; null takes the other side's only class, "
        "one that is called background or other aside",
    )
    map_extent: Literal["auto", "open", "bounds", "covered"] = Field(
        "auto",
        description="what ground a map that is a vector layer knows: all, so that what it does not show is not there (open), the rectangle "
        "round its features (bounds), or what its polygons cover (covered); auto is covered for a layer of `landseg parcels` that fills "
        "nine tenths of its hull, else open; a raster knows its valid pixels",
    )
    reference_extent: Literal["auto", "open", "bounds", "covered"] = Field(
        "auto", description="the same of a reference that is a vector layer; beyond it the map's objects are not counted as extra"
    )
    block_m: float | None = Field(
        None,
        gt=0,
        description="metres along the edge of the blocks of ground that are drawn again for 95 % intervals; null takes an eighth of the "
        "longer side of the ground with scored objects, or four times the median object where that is larger",
    )
    objects: bool = Field(True, description="score objects too where map and reference are both rasters; false counts pixels alone")

    @field_validator("only", "class_column", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value  # a class number, a column called 2024

    @field_validator("classes", mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class Recipe(Section):
    """Every setting of landseg."""

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    cut: CutConfig = CutConfig()
    data: DataConfig = DataConfig()
    sample: SampleConfig = SampleConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    predict: PredictConfig = PredictConfig()
    score: ScoreConfig = ScoreConfig()

    @model_validator(mode="after")
    def _ends(self) -> Recipe:
        if self.train.epochs is None and self.train.minutes is None:
            both = "train.epochs and train.minutes are both null"
            raise ValueError(f"{both}; one of them, or the run would never end; --set train.minutes=30, or train.epochs")
        return self
