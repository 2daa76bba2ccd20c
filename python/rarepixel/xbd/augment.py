"""Random changes of training samples."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .._arguments import number

__all__ = ["Augment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """Random changes of a sample, made in Rust; each is off by default.

    An option is how far a change may go, and its ``_probability`` how often it is made. Turns, scale and shift are the
    same for pre, post and mask. Brightness, contrast, saturation and hue are drawn for each image on its own, since the
    two are taken on different days. What comes from outside the tile is black in the images and 255 (ignored) in the
    mask.

    Args:
        flip_rotate: probability that one of the eight flips and quarter turns of the square (D4) is drawn, all equally
            likely, the identity too. Crops that are not square keep to the four that keep their shape.
        scale: scale about the crop's centre, at most 0.9: 0.2 gives factors of 0.8 to 1.25, uniform in the logarithm.
            Bilinear for images, nearest for the mask.
        shift: up to so many whole pixels along each axis.
        brightness: factors of 1 - brightness to 1 + brightness, at most 1.
        contrast: the same, about the image's mean gray.
        saturation: the same, about the pixel's gray.
        hue: a turn of the colours about the gray axis by up to so many full turns, at most 0.5.
        registration: shift of pre against post and mask by up to so many whole pixels along each axis; xBD's own pairs
            are off by a few pixels.

    Raises:
        ValueError: a value out of its range.
        TypeError: a value that is not a number.

    >>> import rarepixel as rp
    >>> rp.xbd.Augment(flip_rotate=1.0, brightness=0.2, registration=3, registration_probability=0.5).brightness
    0.2
    """

    flip_rotate: float = 0.0
    scale: float = 0.0
    scale_probability: float = 1.0
    shift: int = 0
    shift_probability: float = 1.0
    brightness: float = 0.0
    brightness_probability: float = 1.0
    contrast: float = 0.0
    contrast_probability: float = 1.0
    saturation: float = 0.0
    saturation_probability: float = 1.0
    hue: float = 0.0
    hue_probability: float = 1.0
    registration: int = 0
    registration_probability: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = number(field.name, getattr(self, field.name))
            if field.name in ("shift", "registration"):
                fits, expected = value in range(4097), "a whole number from 0 to 4096"
            else:
                high = {"scale": 0.9, "hue": 0.5}.get(field.name, 1.0)
                fits, expected = 0 <= value <= high, f"0 to {high}"
            if not fits:
                raise ValueError(f"{field.name}: got {getattr(self, field.name)}, expected {expected}")

    def _chances(self) -> dict[str, float | tuple[float, float]]:
        """What the extension takes: (range, probability) by name."""
        names = ("scale", "shift", "brightness", "contrast", "saturation", "hue", "registration")
        chances = {name: (float(getattr(self, name)), float(getattr(self, f"{name}_probability"))) for name in names}
        return {"flip_rotate": float(self.flip_rotate), **chances}
