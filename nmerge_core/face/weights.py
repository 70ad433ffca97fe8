"""What comparisons of weights return: how far neurons turned, how fine-tunes agree, and what a merge kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from nmerge_core.errors import InputError
from nmerge_core.face.results import OfModels, Result, model_colours
from nmerge_core.files.kept_files import read_csv, read_parquet

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Cosines(OfModels):
    """How far fine-tunes turned each neuron's weights."""

    @cached_property
    def table(self) -> pd.DataFrame:
        """Columns model, layer, matrix, neurons, mean, min, p01, p50, zero."""
        return self._table("cosine.csv")

    @cached_property
    def moved(self) -> pd.DataFrame:
        """The neurons of lowest cosine: model, layer, neuron, matrix, cosine."""
        return self._table("moved.csv")

    def figure(self, *, dark: bool = False) -> go.Figure:
        """Draw the mean cosine over the layers, a panel per matrix (NeuronMerge Fig. 8)."""
        from nmerge_core.figures.similarity import mean_cosine

        return mean_cosine(self.table, model_colours(list(self.table["model"].unique()), {}, dark=dark), dark=dark)

    @cached_property
    def neurons(self) -> pd.DataFrame:
        """Every neuron in each fine-tune: model, layer, neuron, cosine, change (‖τ‖ / ‖θ_0‖), parallel.

        `parallel` is ‖τ∥‖² / ‖τ‖², the share of the change that lies along the neuron's own weights in the base.
        """
        return self._named("turned.parquet", ["model"], ["cosine", "change", "parallel"])

    @cached_property
    def between(self) -> pd.DataFrame:
        """Every neuron in every two fine-tunes: one, other, layer, neuron, cosine (of the two τ), opposed.

        `opposed` is the sign conflict: of the weights that both changed, the share whose signs are opposite.
        """
        return self._named("between.parquet", ["one", "other"], ["cosine", "opposed"])

    def conflicts(self, among: Sequence[str] | None = None) -> pd.DataFrame:
        """Rank the neurons by how far fine-tunes, all or those `among` them, disagree: the means over every two.

        Columns layer, neuron, opposed, cosine, the most opposed first.
        """
        from nmerge_core.similarity.tables import conflicts

        return conflicts(self.between, among)

    def map_figure(
        self,
        quantity: str = "opposed",
        of: str | Sequence[str] = (),
        neurons: pd.DataFrame | None = None,
        *,
        dark: bool = False,
    ) -> go.Figure:
        """Draw the mean of a quantity over each layer's neurons: a row per fine-tune, or per two of them.

        Args:
            quantity: "change" or "parallel" of each fine-tune, "cosine" or "opposed" (signs) of every two.
            of: one fine-tune, or two in either order, whose neurons have a row per category.
            neurons: layer, neuron and category of the base's neurons, as `overview` of a classification gives; needed
                with `of`.
            dark: the reader's theme.

        Raises:
            InputError: there is no such quantity, or `of` are none that it is of.
        """
        from nmerge_core.figures.changes import QUANTITIES, over_layers
        from nmerge_core.similarity.tables import layer_means

        if quantity not in QUANTITIES:
            raise InputError(f"quantity {quantity!r}: expected one of {', '.join(QUANTITIES)}")
        frame = self.between if QUANTITIES[quantity].mutual else self.neurons
        keys = ["one", "other"] if QUANTITIES[quantity].mutual else ["model"]
        chosen = (of,) if isinstance(of, str) else tuple(of)
        known = [*dict.fromkeys(name for key in keys for name in frame[key].unique())]
        if chosen and (neurons is None or len({*chosen} & {*known}) != len(keys) or len(chosen) != len(keys)):
            raise InputError(
                f"of: expected {'two' if len(keys) == 2 else 'one'} of {', '.join(known)}, with the base's categories "
                f"as neurons, found {', '.join(chosen)}{' without them' if neurons is None else ''}"
            )
        return over_layers(layer_means(frame, quantity, chosen, neurons), quantity, dark=dark)

    def _named(self, file: str, models: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
        frame = read_parquet(self.path / file, (*models, "layer", "neuron", *measures))
        return frame.assign(**{each: frame[each].map(self.names) for each in models})


@dataclass(frozen=True)
class Interference(Result):
    """Where fine-tunes get in each other's way: of each matrix of a layer."""

    @cached_property
    def table(self) -> pd.DataFrame:
        """Columns layer, matrix, interference, chance, opposed, lost, cosine (of `conflict.interference`)."""
        return read_csv(self.path / "interference.csv")

    def figure(self, measure: str = "shared", *, dark: bool = False) -> go.Figure:
        """Draw "shared" (interference over chance), "opposed", "lost" or "cosine", layers across and matrices down."""
        from nmerge_core.figures.similarity import interference

        return interference(self.table, measure, dark=dark)


@dataclass(frozen=True)
class Inherited(OfModels):
    """What each neuron of a merge kept of what its fine-tunes changed: τ_t theirs, Δ the merge's own.

    `kept` is ⟨Δ, τ_t⟩ / ‖τ_t‖²: 1 where all of it is in the merge, 0 where nothing is, negative where that goes against
    it.
    """

    @cached_property
    def neurons(self) -> pd.DataFrame:
        """Columns layer, neuron, model, change (‖τ_t‖), kept, cosine (of Δ and τ_t)."""
        frame = read_parquet(self.path / "inherited.parquet", ("layer", "neuron", "model", "change", "kept", "cosine"))
        return frame.assign(model=frame["model"].map(self.names))

    def layers(self) -> pd.DataFrame:
        """Return layer, model, neurons, kept: of all neurons of each layer taken together."""
        from nmerge_core.inheritance.tables import kept_by

        return kept_by(self.neurons, ["layer"])
