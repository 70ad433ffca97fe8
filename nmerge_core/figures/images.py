"""One neuron on images, in every model: the patch of each image at which it fires most strongly."""

import html
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from nmerge_core.figures.explorer import Seen
from nmerge_core.figures.texts import chip, grid

SIDE = 112  # pixels of an image on the page


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
    """One image as one model's neuron sees it: `png` is what the model is shown, small."""

    model: str
    note: str
    png: bytes
    box: Box | None

    def body(self, colour: str, window: int | None) -> str:
        """The image as HTML, its patch framed in a colour; `window` is for texts."""
        source = f"data:image/png;base64,{b64encode(self.png).decode()}"
        frame = ""
        if self.box:
            edges = {"left": self.box.left, "top": self.box.top, "width": self.box.width, "height": self.box.height}
            place = "".join(f"{name}:{100 * share:.2f}%;" for name, share in edges.items())
            frame = f'<i style="{place}{_FRAME}box-shadow:0 0 0 2px {colour},0 0 0 3px #fff"></i>'
        image = f'<img src="{source}" width="{SIDE}" alt="{html.escape(self.note)}" style="{_IMAGE}">'
        return f'<div style="position:relative;width:{SIDE}px;margin:.25rem 0">{image}{frame}</div>'


_FRAME = "position:absolute;"
_IMAGE = "display:block;image-rendering:pixelated;border-radius:3px"


def chosen_images(
    models: Sequence[Seen],
    images: pd.DataFrame,
    thumbnails: Mapping[str, Mapping[int, bytes]],
    peaks: Mapping[str, Mapping[int, Peak]],
    colours: Mapping[str, str],
) -> str:
    """Images of a corpus, a row each, and in every model's column the patch where its neuron fires most strongly.

    Args:
        models: The neuron as each model has it.
        images: Columns id, category, text (the image's name), and title, why each is there.
        thumbnails: By model what it is shown of each image, by id.
        peaks: By model where the score of each image was reached, of those for which that is kept.
        colours: The colour of each category.
    """
    rows = []
    for image in images.itertuples():
        cells = []
        for seen in models:
            peak = peaks[seen.label].get(image.id)
            note = f"{seen.note(image.id)}{f' · {peak.told}' if peak else ''}"
            cells.append(ImageCell(seen.label, note, thumbnails[seen.label][image.id], peak.box if peak else None))
        title = f"{html.escape(image.title)} {chip(image.category, colours)} <small>{html.escape(image.text)}</small>"
        rows.append((title, colours[image.category], cells))
    return grid([seen.head(colours) for seen in models], rows)
