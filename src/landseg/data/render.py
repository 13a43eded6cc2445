"""Paint an invented landscape as a camera would see it: season, sun, shadow, haze, lens, sensor. What lies where is not decided here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from landseg.data.plots import Rank, Use
from landseg.data.terrain import BERM, FOREST, MAIN, MINOR, RIVER, ROAD_WIDTH, TRACK, WATER, WOOD, Terrain, noise

SEASONS = ("spring", "summer", "autumn", "winter")
PIXEL_M = 2.0

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Look:
    """How a scene was seen; two scenes of one landscape with different looks show the same land on different days.

    Args:
        season: One of `SEASONS`; chooses crops and foliage.
        sun_azimuth_deg: Clockwise from north.
        sun_elevation_deg: Above the horizon, 20..75; low suns cast long shadows.
        warmth: Colour balance, -1 (blue) .. 1 (yellow).
        saturation: 1 is as painted.
        contrast: 1 is as painted.
        brightness: 1 is as painted.
        haze: Share of veiling light, 0..0.5.
        noise: Standard deviation of the sensor's noise in grey values.
        blur_px: Standard deviation of the lens' point spread in pixels.
    """

    season: str = "summer"
    sun_azimuth_deg: float = 150.0
    sun_elevation_deg: float = 45.0
    warmth: float = 0.0
    saturation: float = 1.0
    contrast: float = 1.0
    brightness: float = 1.0
    haze: float = 0.06
    noise: float = 2.5
    blur_px: float = 0.6

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Look:
        """A look as archives hold them: any season, sun, weather and camera."""
        return cls(
            season=SEASONS[int(rng.integers(len(SEASONS)))],
            sun_azimuth_deg=float(rng.uniform(105, 235)),
            sun_elevation_deg=float(rng.uniform(30, 62)),
            warmth=float(rng.uniform(-0.7, 0.9)),
            saturation=float(rng.uniform(0.72, 1.08)),
            contrast=float(rng.uniform(0.85, 1.15)),
            brightness=float(rng.uniform(0.96, 1.17)),
            haze=float(rng.uniform(0.0, 0.26)),
            noise=float(rng.uniform(1.2, 5.0)),
            blur_px=float(rng.uniform(0.45, 0.85)),
        )


@dataclass(frozen=True)
class _Crop:
    """A ground cover: how often in each season, its two colours (between rows, on rows) and how strongly it is patterned."""

    often: tuple[float, float, float, float]
    low: Colour
    high: Colour
    cover: float
    rows: float = 0.0
    trams: float = 0.0
    patches: float = 0.25


_CROPS = (
    _Crop((5, 0, 1, 1), (136, 118, 84), (78, 112, 46), 0.80, 0.16, 0.45, 0.40),  # winter wheat, green
    _Crop((2, 1, 1.2, 2), (142, 124, 92), (106, 126, 66), 0.60, 0.30, 0.30, 0.45),  # young crop over soil
    _Crop((0, 4, 0, 0), (164, 138, 92), (212, 186, 122), 0.70, 0.10, 0.50, 0.45),  # ripe cereal
    _Crop((0, 2.5, 3, 1), (150, 128, 94), (200, 178, 130), 0.60, 0.35, 0.20, 0.35),  # stubble
    _Crop((0, 3.5, 1, 0), (60, 70, 42), (72, 104, 48), 0.70, 0.20, 0.25, 0.30),  # maize
    _Crop((0, 1.2, 0.6, 0), (52, 72, 38), (58, 92, 40), 0.75, 0.10, 0.10, 0.25),  # beet, as dark as forest
    _Crop((2, 0.8, 2.5, 2.5), (116, 94, 70), (158, 134, 102), 0.50, 0.22, 0.05, 0.75),  # bare soil
    _Crop((1.4, 0.5, 2.5, 2.5), (64, 56, 48), (100, 84, 68), 0.40, 0.20, 0.05, 0.70),  # ploughed and wet, as dark as water
    _Crop((1.6, 0, 0, 0), (146, 148, 66), (192, 180, 72), 0.80, 0.06, 0.60, 0.30),  # rape in flower
    _Crop((2, 1.6, 1.6, 1.6), (126, 126, 78), (108, 130, 66), 0.60, 0.03, 0.0, 0.65),  # meadow
    _Crop((0.9, 1.0, 0.6, 0.2), (52, 66, 58), (74, 96, 66), 0.45, 0.06, 0.0, 0.60),  # paddy, between water and green
    _Crop((0.3, 0.15, 0.2, 0.3), (130, 118, 100), (198, 200, 198), 0.58, 0.90, 0.0, 0.08),  # under plastic film, as bright as roofs
    _Crop((0.6, 0.8, 0.8, 0.6), (134, 118, 84), (62, 84, 42), 0.52, 0.95, 0.0, 0.15),  # orchard and vines
)

_FOLIAGE: dict[str, tuple[Colour, Colour, Colour]] = {  # shade, light, how other species differ from it
    "spring": ((34, 52, 26), (112, 136, 66), (-26, -16, -12)),
    "summer": ((28, 46, 24), (92, 120, 62), (-24, -16, -8)),
    "autumn": ((48, 50, 28), (122, 116, 60), (26, -8, -8)),
    "winter": ((62, 56, 46), (132, 118, 98), (-50, -28, -38)),
}

_ROOFS: tuple[Colour, ...] = (
    (164, 100, 78), (150, 90, 72), (174, 118, 94), (142, 96, 80), (122, 90, 76), (98, 98, 100), (138, 138, 138), (198, 192, 182),
)  # fmt: skip
_HALL_ROOFS: tuple[Colour, ...] = ((224, 224, 220), (176, 178, 178), (130, 132, 134), (92, 122, 158), (150, 96, 80), (202, 204, 208))
_SHADE = np.array([0.60, 0.55, 0.44], np.float32)  # what a shadow takes from red, green, blue: the sky still lights it


def render(terrain: Terrain, look: Look, rng: np.random.Generator) -> np.ndarray:
    """Paint a terrain.

    Args:
        terrain: What lies where.
        look: Season, light, weather and camera.
        rng: Draws textures and noise.

    Returns:
        (H, W, 3) uint8, red, green, blue; no pixel is wholly black, so that black can mean nodata.
    """
    height, width = terrain.truth.shape
    sun = np.array([math.sin(math.radians(look.sun_azimuth_deg)), -math.cos(math.radians(look.sun_azimuth_deg))])
    is_wood = terrain.truth == FOREST
    crowns, canopy = _canopy(rng, height, width, sun)
    ground = _ground(terrain, look, rng, is_wood, canopy)
    picture = _lines(terrain, look, ground, is_wood)
    tops = np.where(is_wood, crowns, 0).astype(np.uint8)
    _houses(terrain, rng, sun, picture, tops)
    shadow = cast_shadow(tops, sun, look.sun_elevation_deg)
    relief = cv2.addWeighted(noise(rng, height, width, 210), 0.15, noise(rng, height, width, 5), 0.07, 100.0)
    gains = np.clip((1 - _SHADE * (np.arange(256, dtype=np.float32)[:, None] / 255)) * 255, 0, 255).astype(np.uint8)
    picture = cv2.multiply(picture, cv2.LUT(cv2.merge([shadow] * 3), gains[None]), scale=1 / 255)
    picture = cv2.multiply(picture, cv2.merge([relief] * 3), scale=1 / 128)
    return _expose(picture, look, rng)


def cast_shadow(tops: np.ndarray, sun: np.ndarray, elevation_deg: float) -> np.ndarray:
    """Where the sun is hidden by something taller towards it.

    Args:
        tops: (H, W) uint8, height above ground in 0.2 m.
        sun: Unit vector (x, y) towards the sun in image axes.
        elevation_deg: The sun's height.

    Returns:
        (H, W) uint8: 0 lit .. 255 in full shadow (a metre or more below the edge of the light).
    """
    height, width = tops.shape
    drop = PIXEL_M * math.tan(math.radians(elevation_deg)) / 0.2
    steps = int(min(int(tops.max()) / drop, 24)) + 1
    padded = cv2.copyMakeBorder(tops, steps, steps, steps, steps, cv2.BORDER_REPLICATE)
    edge = np.zeros_like(tops)
    for k in range(1, steps + 1):
        row, col = steps + round(k * sun[1]), steps + round(k * sun[0])
        # A height below nought is nought: OpenCV saturates.
        cv2.max(edge, cv2.subtract(padded[row : row + height, col : col + width], np.full_like(tops, min(255, round(k * drop)))), dst=edge)
    return cv2.GaussianBlur(cv2.multiply(cv2.subtract(edge, tops), np.ones_like(tops), scale=255 / 8), (3, 3), 0.6)


def _canopy(rng: np.random.Generator, height: int, width: int, sun: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tree tops in 0.2 m (H, W) uint8 and how brightly each crown is lit (H, W) float32, 0..1, as if all were forest."""
    pitch = 4
    rows, cols = height // pitch + 2, width // pitch + 2
    y = ((np.arange(rows)[:, None] + rng.random((rows, cols), dtype=np.float32)) * pitch).astype(np.int64)
    x = ((np.arange(cols)[None] + rng.random((rows, cols), dtype=np.float32)) * pitch).astype(np.int64)
    seeds = np.ones((rows * pitch, cols * pitch), np.uint8)
    keep = rng.random((rows, cols), dtype=np.float32) < 0.86
    seeds[y[keep], x[keep]] = 0
    away = cv2.distanceTransform(seeds, cv2.DIST_L2, 3)[:height, :width]
    stand = noise(rng, height, width, 46).astype(np.float32)
    jitter = noise(rng, height, width, 3).astype(np.float32)
    tops = np.maximum(48 + 0.10 * stand + 0.07 * jitter - 2.4 * away * away, 14)
    kernel = np.zeros((3, 3), np.float32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            kernel[dy + 1, dx + 1] = -(dx * sun[0] + dy * sun[1]) / 6
    lit = cv2.filter2D(tops.astype(np.float32), cv2.CV_32F, kernel)
    light = 0.52 + 0.035 * lit + 0.0045 * (tops - 62) + 0.0012 * (stand - 128)
    return tops.astype(np.uint8), np.clip(light, 0.0, 1.15).astype(np.float32)


def _ground(terrain: Terrain, look: Look, rng: np.random.Generator, is_wood: np.ndarray, canopy: np.ndarray) -> np.ndarray:
    """Fields, woods and water before shadow: every surface runs between its two colours by cover, rows and patches."""
    height, width = terrain.truth.shape
    low, high, cover, rows, trams, patches = _surface_colours(terrain, look, rng)
    draws, surface = terrain.draws, terrain.surface
    period = 7.5 + 8 * draws[:, 3]
    normal = terrain.direction + np.float32(np.pi / 2)
    across_x, across_y = (np.cos(normal) / period * 256).astype(np.float32), (np.sin(normal) / period * 256).astype(np.float32)
    phase = np.take(across_x, surface) * terrain.straight[0]
    phase += np.take(across_y, surface) * terrain.straight[1]
    phase8 = phase.astype(np.int32).astype(np.uint8)
    turn = np.arange(256) / 256
    ripple = (127.5 + 127.5 * np.sin(2 * np.pi * 3 * turn)).astype(np.uint8)
    dip = (255 * np.exp(-(((turn - 0.5) / 0.07) ** 2))).astype(np.uint8)
    mottle = 0.5 * noise(rng, height, width, 48) + 0.32 * noise(rng, height, width, 15).astype(np.float32)
    mottle += 0.18 * noise(rng, height, width, 5)
    amount = np.take(cover, surface)
    amount += np.take(rows / 255, surface) * (cv2.LUT(phase8, ripple).astype(np.float32) - 128)
    amount -= np.take(trams / 255, surface) * cv2.LUT(phase8, dip)
    amount += np.take(patches / 70, surface) * (mottle.astype(np.float32) - 128)
    np.clip(amount, -0.1, 1.15, out=amount)
    is_water = (terrain.truth == WATER).view(np.uint8)
    shore = cv2.blur(is_water * 255, (9, 9)).astype(np.float32) / 255
    species = noise(rng, height, width, 34).astype(np.float32) / 90 + noise(rng, height, width, 4).astype(np.float32) / 120 - 2.4
    np.clip(species, 0, 1, out=species)
    cv2.copyTo(canopy, is_wood.view(np.uint8), amount)
    cv2.copyTo(1.3 - 1.3 * shore + 0.002 * mottle.astype(np.float32), is_water, amount)
    edges = np.zeros((height, width), np.uint8)
    cv2.polylines(edges, terrain.outlines, True, 150, 1, cv2.LINE_AA, shift=4)
    margin = (edges * (terrain.use[surface] == Use.FIELD)).astype(np.float32) / 255
    grass = np.asarray(_berm(look), np.float32)
    tint = np.asarray(_FOLIAGE[look.season][2], np.float32)
    planes = []
    for k in range(3):
        plane = np.take(high[:, k] - low[:, k], surface)
        plane *= amount
        plane += np.take(low[:, k], surface)
        plane += species * (tint[k] * is_wood)
        plane += margin * (grass[k] - plane)
        planes.append(cv2.convertScaleAbs(np.maximum(plane, 0, out=plane)))
    return np.asarray(cv2.merge(planes))


def _surface_colours(terrain: Terrain, look: Look, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    season = SEASONS.index(look.season)
    draws = terrain.draws
    often = np.array([crop.often[season] for crop in _CROPS])
    # Neighbours in a block often grow the same.
    of_block = rng.random(int(terrain.block.max()) + 1)[terrain.block]
    choice = np.where(draws[:, 5] < 0.4, of_block, draws[:, 0])
    crop = np.searchsorted(np.cumsum(often) / often.sum(), choice).clip(0, len(_CROPS) - 1)
    low = np.array([c.low for c in _CROPS], np.float32)[crop]
    high = np.array([c.high for c in _CROPS], np.float32)[crop]
    pattern = np.array([(c.cover, c.rows, c.trams, c.patches) for c in _CROPS], np.float32)[crop]
    low, high = _vary(low, draws), _vary(high, draws)
    cover = pattern[:, 0] + (draws[:, 2] - 0.5) * 0.36
    rows, trams = pattern[:, 1] * (0.4 + draws[:, 4]), pattern[:, 2] * (0.2 + 1.2 * draws[:, 1])
    patches = pattern[:, 3]
    foliage = _FOLIAGE[look.season]
    berm, deep = np.asarray(_berm(look), np.float32), np.array([(44, 62, 66), (58, 70, 58), (38, 58, 52), (72, 80, 70)], np.float32)
    water = deep[int(rng.integers(4))]
    garden, yard, copse, pond = (terrain.use == use for use in (Use.GARDEN, Use.YARD, Use.COPSE, Use.POND))
    low[garden], high[garden] = _vary(np.broadcast_to(berm * 0.9, low[garden].shape), draws[garden]), low[garden] * 0.5 + berm * 0.5
    rows[garden], trams[garden], patches[garden] = rows[garden] * 0.3, 0, 0.7
    low[yard], high[yard], rows[yard], trams[yard] = (142, 136, 126), (176, 170, 160), 0, 0
    low[pond], high[pond] = _vary(np.broadcast_to(water, low[pond].shape), draws[pond]), (96, 104, 84)
    low[copse], high[copse] = foliage[0], foliage[1]
    for code, dark, light in ((BERM, berm * 0.85, berm * 1.1), (WOOD, foliage[0], foliage[1]), (RIVER, water, (104, 106, 86)),
                              (MAIN, (140, 140, 140), (150, 150, 150)), (MINOR, (160, 156, 148), (170, 166, 158)),
                              (TRACK, (156, 140, 112), (170, 154, 126))):  # fmt: skip
        low[code], high[code], rows[code], trams[code], cover[code], patches[code] = dark, light, 0, 0, 0.5, 0.5
    houses = slice(len(draws) - len(terrain.houses), len(draws))
    low[houses], high[houses] = berm * 0.9, berm
    rows[houses] = trams[houses] = 0
    return low, high, cover.astype(np.float32), rows.astype(np.float32), trams.astype(np.float32), patches.astype(np.float32)


def _vary(colours: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """The same colours a little lighter or darker, yellower or greener, plot by plot."""
    tone = 0.86 + 0.28 * draws[:, 1:2]
    hue = (draws[:, 5:6] - 0.5) * np.array([[14, 4, -8]], np.float32)
    return np.asarray(colours * tone + hue, np.float32)


def _berm(look: Look) -> Colour:
    return {"spring": (112, 130, 72), "summer": (130, 134, 84), "autumn": (132, 124, 82), "winter": (126, 116, 88)}[look.season]


def _lines(terrain: Terrain, look: Look, ground: np.ndarray, is_wood: np.ndarray) -> np.ndarray:
    """Roads with their verges, smooth-edged, under trees and never on water but where a bridge is."""
    picture = ground.copy()
    berm = np.asarray(_berm(look), np.float64)
    roads = terrain.roads
    for rank, beyond in ((Rank.MINOR, 2), (Rank.MAIN, 4)):
        cv2.polylines(picture, roads[rank], False, (berm * 1.04).tolist(), ROAD_WIDTH[rank] + beyond, cv2.LINE_AA, shift=4)
    cv2.polylines(picture, roads[Rank.TRACK], False, (168, 150, 120), ROAD_WIDTH[Rank.TRACK], cv2.LINE_AA, shift=4)
    cv2.polylines(picture, roads[Rank.MINOR], False, (170, 164, 154), ROAD_WIDTH[Rank.MINOR], cv2.LINE_AA, shift=4)
    cv2.polylines(picture, roads[Rank.MAIN], False, (166, 164, 158), ROAD_WIDTH[Rank.MAIN], cv2.LINE_AA, shift=4)
    cv2.polylines(picture, roads[Rank.MAIN], False, (128, 128, 130), 3, cv2.LINE_AA, shift=4)
    over = (is_wood | (terrain.truth == WATER)).view(np.uint8)
    return np.asarray(cv2.copyTo(ground, over, picture))


def _houses(terrain: Terrain, rng: np.random.Generator, sun: np.ndarray, picture: np.ndarray, tops: np.ndarray) -> None:
    """Roofs of two lit slopes, on a paler yard, and their heights for the shadow."""
    draws = rng.random((len(terrain.houses), 3)).tolist()
    roofs = _ROOFS[: 3 + int(rng.integers(6))]
    centres = terrain.corners.mean(1, keepdims=True)
    yards = np.round((centres + (terrain.corners - centres) * 1.45) * 16).astype(np.int32)
    is_tree = (terrain.truth == FOREST).view(np.uint8)
    under = picture.copy()
    for yard, draw in zip(yards, draws, strict=True):
        cv2.fillConvexPoly(picture, yard, (150 + 22 * draw[0], 142 + 18 * draw[0], 122 + 18 * draw[1]), cv2.LINE_AA, shift=4)
    cv2.copyTo(under, is_tree, picture)
    front, back = (terrain.corners[:, [0, 3]].mean(1), terrain.corners[:, [1, 2]].mean(1))
    a, b, c, d = np.moveaxis(terrain.corners, 1, 0)
    slopes = [np.stack([a, b, back, front], 1), np.stack([front, back, c, d], 1)]
    outward = [slope.mean(1) - centres[:, 0] for slope in slopes]
    facing = [way / np.maximum(1e-3, np.linalg.norm(way, axis=1, keepdims=True)) @ sun for way in outward]
    whole = np.round(terrain.corners * 16).astype(np.int32)
    halves = [np.round(slope * 16).astype(np.int32) for slope in slopes]
    for i, (house, draw) in enumerate(zip(terrain.houses, draws, strict=True)):
        palette = _HALL_ROOFS if house.is_hall else roofs
        colour = np.asarray(palette[int(draw[0] * len(palette))]) * (0.88 + 0.24 * draw[1])
        pitch = 0.07 if house.is_hall else 0.24
        cv2.fillConvexPoly(picture, whole[i], colour.tolist(), cv2.LINE_AA, shift=4)
        for half, side in zip(halves, facing, strict=True):
            cv2.fillConvexPoly(picture, half[i], (colour * (1 + pitch * float(side[i]))).tolist(), cv2.LINE_AA, shift=4)
        cv2.fillConvexPoly(tops, whole[i], round(house.height_m / 0.2), shift=4)


def _expose(picture: np.ndarray, look: Look, rng: np.random.Generator) -> np.ndarray:
    """Weather, lens, sensor and tone curve."""
    grey = np.array([0.299, 0.587, 0.114])
    matrix = look.saturation * np.eye(3) + (1 - look.saturation) * grey
    matrix = np.diag(np.array([1 + 0.07 * look.warmth, 1.0, 1 - 0.09 * look.warmth]) * look.brightness * (1 - look.haze)) @ matrix
    veil = look.haze * np.array([176, 186, 200])
    picture = cv2.transform(picture, np.column_stack([matrix, veil]))
    levels = np.arange(256) / 255
    curved = np.clip(0.46 + (levels - 0.46) * look.contrast, 0, 1)
    curved = curved + 0.10 * (look.contrast - 0.6) * (curved - 0.5) * (1 - np.abs(2 * curved - 1))
    picture = cv2.LUT(picture, np.clip(np.round(255 * curved), 0, 255).astype(np.uint8))
    picture = cv2.GaussianBlur(picture, (5, 5), look.blur_px)
    # One byte a sample is drawn and turned into a normal deviate by its quantile: ten times faster than drawing normals.
    quantiles = np.sort(rng.standard_normal(4096))[8::16]
    table = np.clip(np.round(128 + look.noise * quantiles), 0, 255).astype(np.uint8)
    grain = cv2.LUT(rng.integers(0, 256, picture.shape, dtype=np.uint8), table)
    return cv2.max(cv2.addWeighted(picture, 1.0, grain, 1.0, -128.0), np.full_like(picture, 1))
