"""Which token of an image is which of its patches."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Grid:
    """Where the tokens of an image lie: `before` stand for none of its patches, then row by row each for one."""

    before: int
    rows: int
    columns: int

    def patch(self, token: int) -> tuple[int, int] | None:
        """Return the row and the column, from 0, of the patch that a token stands for; None where it is of none."""
        return divmod(token - self.before, self.columns) if token >= self.before else None

    def patches(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return what the tokens of an image (tokens,) have, of those that stand for patches, (rows, columns)."""
        return values[self.before :].reshape(self.rows, self.columns)

    def told(self, token: int) -> str:
        """Return what a token stands for in words."""
        patch = self.patch(token)
        if patch:
            return f"row {patch[0]}, column {patch[1]}"
        return "class token" if token == 0 else f"extra token {token}"  # DeiT's of distillation, DINOv2's registers
