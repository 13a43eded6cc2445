"""The settings of augmentation: a section of the recipe. It draws nothing; `training.augment` does."""

from __future__ import annotations

from pydantic import Field, field_validator

from landseg.core.section import Section


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
