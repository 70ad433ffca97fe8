"""What `classify` and `compare` return: categories, single neurons, and what merges made of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from nmerge_core.errors import InputError
from nmerge_core.face.results import model_colours
from nmerge_core.face.single_neurons import SingleNeurons
from nmerge_core.face.weights import Inherited

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Classifications(SingleNeurons):
    """The neuron categories of models and of merges of them, the base's first."""

    def became(self, merge: str) -> pd.DataFrame:
        """Return in which category of a merge the neurons of each category of each fine-tune ended up.

        Columns model, before, after, neurons, share (of those of `before`).

        Raises:
            InputError: there is no such model, or no fine-tune beside it.
        """
        from nmerge_core.inheritance.tables import became

        neurons, tuned = dict([*self.neurons().groupby("model", sort=False)]), self._tuned(self._known(merge))
        if not tuned:
            raise InputError(f"expected a fine-tune beside the base and {merge}, found {', '.join(self.labels)}")
        frames = [became(neurons[each], neurons[merge], self.categories).assign(model=each) for each in tuned]
        return pd.concat(frames, ignore_index=True)[["model", "before", "after", "neurons", "share"]]

    def became_figure(self, merge: str, *, dark: bool = False) -> go.Figure:
        """Draw the same, a panel per model: its categories downwards, those in the merge to the right."""
        from nmerge_core.figures.inheritance import became

        return became(self.became(merge), dark=dark)

    def kept(self, inherited: Inherited, *, by_layer: bool = False) -> pd.DataFrame:
        """Return what a merge kept of each fine-tune in the neurons of each category of the first model, the base.

        Columns category, perhaps layer, model, neurons, kept (of the change in these neurons taken together).
        """
        from nmerge_core.inheritance.tables import kept_by, with_categories

        base = self.neurons().query("model == @self.labels[0]")
        frame = with_categories(inherited.neurons, base, self.categories)
        return kept_by(frame, ["category", "layer"] if by_layer else ["category"])

    def kept_figure(self, inherited: Inherited, *, dark: bool = False) -> go.Figure:
        """Draw the same, a bar per fine-tune."""
        from nmerge_core.figures.inheritance import kept

        return kept(self.kept(inherited), model_colours(list(inherited.names.values()), {}, dark=dark), dark=dark)

    def kept_depth_figure(self, inherited: Inherited, *, dark: bool = False) -> go.Figure:
        """Draw the same over the layers, a panel per category."""
        from nmerge_core.figures.inheritance import kept_over_depth

        colours = model_colours(list(inherited.names.values()), {}, dark=dark)
        return kept_over_depth(self.kept(inherited, by_layer=True), colours, dark=dark)
