"""Every setting: one section a room that has knobs, each field with its meaning, unit and default. It reads no recipe and no machine."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NETWORKS = ("deeplabv3plus", "unet", "unetplusplus", "fpn", "pspnet", "linknet", "manet", "pan", "upernet", "segformer", "dpt")


class Section(BaseModel):
    """A part of a recipe: immutable, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


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
    compile: bool = Field(False, description="compile the network with torch.compile (needs a C++ compiler; pays on runs of many steps)")
    device: str = Field("auto", description="auto | cpu | cuda | cuda:1 | mps")

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

    @field_validator("precision", mode="before")
    @classmethod
    def _bits(cls, value: object) -> object:
        return str(value) if type(value) is int else value  # `precision: 32` is what a person writes


class CutConfig(Section):
    """How `prepare` cuts scenes into tiles."""

    bands: tuple[int | str, ...] | None = Field(
        None, min_length=1, description="bands of the scenes to keep, in this order, by number from 1 or by name; null keeps all"
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


class DataConfig(Section):
    """How tiles reach the training loop."""

    pack: bool = Field(True, description="decode all tiles once into a memory-mapped file; false decodes them anew each epoch")
    workers: int | None = Field(None, ge=1, description="threads that decode; null uses every core")


class AugmentConfig(Section):
    """Random changes to each training tile, drawn for it alone; image and label move together.

    A key that ends a share is the share of tiles so changed; strengths of colour are in the deviations by which the network's first layer
    divides each band, so that they mean the same for photographs and for 16-bit sensors: those of the train part, or those that the
    pretrained weights bring along (ImageNet's, of 8-bit red, green and blue).
    """

    flips: bool = Field(True, description="left-right and up-down flips, each with probability one half")
    quarter_turns: bool = Field(True, description="rotation by 0, 90, 180 or 270 degrees (square tiles; others turn by 180)")
    warp: float = Field(
        1.0, ge=0, le=1, description="share of tiles that are rotated, scaled, stretched, sheared and shifted as the next keys allow"
    )
    rotation_deg: float = Field(
        0.0, ge=0, le=180, description="largest rotation in degrees, drawn evenly; what it exposes becomes the ignore index"
    )
    scale: tuple[float, float] = Field(
        (1.0, 1.0), description="smallest and largest factor by which the ground is shown larger, drawn evenly by its logarithm"
    )
    aspect: float = Field(1.0, ge=1, le=4, description="largest ratio by which one side is stretched against the other")
    shear_deg: float = Field(0.0, ge=0, le=45, description="largest shear in degrees, drawn evenly")
    shift: float = Field(0.0, ge=0, le=1, description="largest shift along either side, as a share of its length, drawn evenly")
    blur: float = Field(0.0, ge=0, le=1, description="share of tiles that are blurred (Gaussian, sigma 0.5 to 1.5 pixels)")
    sharpen: float = Field(0.0, ge=0, le=1, description="share of tiles that are sharpened (unsharp mask)")
    noise: float = Field(0.0, ge=0, le=1, description="share of tiles with noise added to each pixel and band")
    haze: float = Field(0.0, ge=0, le=1, description="share of tiles under a haze that varies smoothly over the tile")
    shadow: float = Field(0.0, ge=0, le=1, description="share of tiles in which a half-plane or strip is darkened, as by a cloud")
    brightness: float = Field(0.0, ge=0, le=4, description="largest shift of all bands together, in standard deviations")
    contrast: float = Field(
        0.0, ge=0, lt=4, description="contrast is multiplied by a factor between 1/(1+contrast) and 1+contrast, about the tile's mean"
    )
    tint: float = Field(0.0, ge=0, le=4, description="largest shift of each band by itself, in standard deviations")
    gamma: float = Field(0.0, ge=0, lt=4, description="values are raised to a power between 1/(1+gamma) and 1+gamma of their range")
    saturation: float = Field(
        0.0, ge=0, lt=4, description="differences between bands are multiplied by a factor between 1/(1+saturation) and 1+saturation"
    )
    hue_deg: float = Field(0.0, ge=0, le=180, description="largest turn of the hue in degrees (images of red, green and blue alone)")
    band_dropout: float = Field(0.0, ge=0, le=1, description="share of tiles in which one band, drawn at random, is replaced by its mean")
    cutout: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of tiles that lose a rectangle of up to a quarter of their area: its label becomes the ignore index",
    )
    class_mix: float = Field(
        0.0, ge=0, le=1, description="share of tiles into which the pixels of half of the classes of another tile are copied, labels too"
    )
    cut_mix: float = Field(0.0, ge=0, le=1, description="share of tiles into which a rectangle of another tile is copied, label too")

    @field_validator("scale")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.1 <= value[0] <= value[1] <= 10:
            raise ValueError("two factors between 0.1 and 10, the smaller one first")
        return value


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
    bands: tuple[int, ...] | None = Field(None, description="which bands of each image to use, counted from 1; null uses all")
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

    @model_validator(mode="after")
    def _ends(self) -> Recipe:
        if self.train.epochs is None and self.train.minutes is None:
            both = "train.epochs and train.minutes are both null"
            raise ValueError(f"{both}; one of them, or the run would never end; --set train.minutes=30, or train.epochs")
        return self
