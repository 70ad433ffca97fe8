"""Images as files or as what would be in them: which files of a folder are some, and the pixels of one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from nmerge_core.errors import InputError, short
from nmerge_core.files.data_folder import files_in

if TYPE_CHECKING:
    from PIL.Image import Image

_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

Content = Callable[[], Path | bytes]  # gives the file of an image, or what would be in it


@dataclass(frozen=True)
class Picture:
    """An image: its name, and what it is read from."""

    name: str
    content: Content = field(compare=False, repr=False)

    @property
    def digest(self) -> str:
        """The SHA-256 of its file's bytes."""
        content = self.content()
        return sha256(content if isinstance(content, bytes) else content.read_bytes()).hexdigest()


def pictures_in(folder: Path, root: Path) -> list[Picture]:
    """Return the images in a folder and below it, in the order of their names, which count from `root`."""
    files = (each for each in files_in(folder) if each.suffix.lower() in _ENDINGS)
    return [Picture(str(each.relative_to(root)), partial(Path, each)) for each in files]


def pixels_of(picture: Picture) -> "Image":
    """Return an image in RGB.

    Raises:
        InputError: it cannot be read.
    """
    from PIL import Image

    try:
        content = picture.content()
        with Image.open(BytesIO(content) if isinstance(content, bytes) else content) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"image {picture.name}: cannot be read as an image ({short(str(error))})") from error
