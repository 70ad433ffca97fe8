"""One neuron on images, in every model: how strongly it fires at each patch, and at which most."""

import html
import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nmerge_core.figures import style
from nmerge_core.figures.explorer import Seen
from nmerge_core.figures.texts import chip, grid, opacity

SIDE = 96  # pixels of an image on the page, of which two have room in the column of a model
Patches = NDArray[np.floating]  # (rows, columns)


@dataclass(frozen=True)
class Box:
    """A patch: where its left and upper edges are, and how wide and high it is, as shares of the image."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Peak:
    """Where in an image the score of a neuron was reached: the token, in words, and the patch if it stands for one."""

    token: int
    told: str
    box: Box | None = None


@dataclass(frozen=True)
class ImageCell:
    """One image as one model's neuron sees it: `png` is what the model is shown, small.

    `shares` are |φ| at the patches by the neuron's highest score, None until they are known.
    """

    model: str
    note: str
    png: bytes
    box: Box | None
    shares: Patches | None = None

    def body(self, colour: str, window: int | None) -> str:
        """The image as HTML, and beside it its patches shaded in a colour, the strongest one framed; no `window`."""
        frame = ""
        if self.box:
            edges = {"left": self.box.left, "top": self.box.top, "width": self.box.width, "height": self.box.height}
            place = "".join(f"{name}:{100 * share:.2f}%;" for name, share in edges.items())
            frame = f'<i style="{place}box-shadow:0 0 0 2px {colour},0 0 0 3px #fff"></i>'
        drawn = [(self.png, self.note)]
        if self.shares is not None:
            drawn.append((shades(self.shares, colour), f"{self.note}, patch by patch"))
        shown = "".join(f"<div>{_image(png, told)}{frame}</div>" for png, told in drawn)
        return f'<div class="patches">{shown}</div>'


def shades(shares: Patches, colour: str) -> bytes:
    """A PNG with a pixel for each patch: a colour as opaque as a token's shade of the same share (`texts.opacity`)."""
    from PIL import Image

    red, green, blue = style.channels(colour)
    pixels = np.empty((*shares.shape, 4), np.uint8)  # (rows, columns, RGBA)
    pixels[..., :3] = red, green, blue
    pixels[..., 3] = np.rint(255 * np.vectorize(opacity, otypes=[float])(shares))
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def _image(png: bytes, told: str) -> str:
    source = f"data:image/png;base64,{b64encode(png).decode()}"
    return f'<img src="{source}" alt="{html.escape(told)}" title="{html.escape(told)}">'


def chosen_images(
    models: Sequence[Seen],
    images: pd.DataFrame,
    thumbnails: Mapping[str, Mapping[int, bytes]],
    peaks: Mapping[str, Mapping[int, Peak]],
    answers: Mapping[str, Sequence[Patches]],
    colours: Mapping[str, str],
) -> str:
    """Images of a corpus, a row each, and in every model's column how strongly its neuron fires at each patch.

    Args:
        models: The neuron as each model has it.
        images: Columns id, category, text (the image's name), and title, why each is there.
        thumbnails: By model what it is shown of each image, by id.
        peaks: By model where the score of each image was reached, of those for which that is kept.
        answers: By model the activations φ at the patches of each image, of those for which they are known (yet).
        colours: The colour of each category.
    """
    rows = []
    for rank, image in enumerate(images.itertuples()):
        cells = []
        for seen in models:
            peak = peaks[seen.label].get(image.id)
            note = f"{seen.note(image.id)}{f' · {peak.told}' if peak else ''}"
            shares = np.abs(answers[seen.label][rank]) / (seen.peak or 1.0) if seen.label in answers else None
            png = thumbnails[seen.label][image.id]
            cells.append(ImageCell(seen.label, note, png, peak.box if peak else None, shares))
        title = f"{html.escape(image.title)} {chip(image.category, colours)} <small>{html.escape(image.text)}</small>"
        rows.append((title, colours[image.category], cells))
    drawn = grid([seen.head(colours) for seen in models], rows)
    return f"<style>{STYLE}</style>{_scale() if answers else ''}{drawn}"


def _scale() -> str:
    """What shades mean: from no activation to the neuron's highest score."""
    steps = "".join(
        f'<i style="background:color-mix(in srgb, currentColor {100 * opacity(share):.0f}%, transparent)"></i>'
        for share in np.linspace(0, 1, 9)
    )
    return f'<div class="scale"><small>|φ| at a patch: 0</small>{steps}<small>the neuron\'s highest score</small></div>'


STYLE = f"""
.patches {{ display: flex; flex-wrap: wrap; gap: 6px; margin: .25rem 0; }}
.patches div {{ position: relative; width: {SIDE}px; height: {SIDE}px; outline: 1px solid rgba(128,128,128,.35); }}
.patches img {{ display: block; width: 100%; height: 100%; image-rendering: pixelated; }}
.patches i {{ position: absolute; }}
.scale {{ display: flex; align-items: center; margin-bottom: .5rem; }}
.scale small {{ opacity: .75; }}
.scale i {{ width: 1.1rem; height: .8rem; }}
.scale small:first-child {{ margin-right: .4rem; }}
.scale small:last-child {{ margin-left: .4rem; }}
"""
