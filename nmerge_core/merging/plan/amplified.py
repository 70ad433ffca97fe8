"""Changes that are multiplied before a method merges them: in a category's neurons its own fine-tune's counts more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nmerge_core.merging.compute.block import Block, Place
from nmerge_core.merging.recipe import gradients
from nmerge_core.merging.recipe.method_part import MethodPart
from nmerge_core.parameters.values import Number, Text

AMPLIFY = "amplify"
OF = Text(name="of", help="The category of the model whose neurons they are, where they are not their category's own.")
OWN = Number(
    name="own",
    default=1.5,
    help="What the change of the neurons' own model is multiplied by before it is merged.",
    low=0,
    high=5,
    step=0.1,
    varies=True,
    open_end=True,
)
FOREIGN = OWN.with_(name="foreign", default=1.0, help="What the changes of the other models are multiplied by.")
BY = MethodPart(
    name="by",
    default="sublin",
    help="The method that the multiplied changes are merged by.",
    aliases={"dare": "dare_linear"},
)


@dataclass(frozen=True)
class Amplified:
    """What changes are multiplied by in a group's neurons: the model's at `position` by `own`, others' by `foreign`.

    Both may be a gradient over the layers, or a list of filters.
    """

    position: int
    own: Any
    foreign: Any

    def factors(self, of: Block | Place, models: int) -> tuple[float, ...]:
        """Return the factor of each model's change."""
        own, foreign = (
            parameter.default if (found := gradients.at(value, of.name, of.position)) is None else found
            for parameter, value in ((OWN, self.own), (FOREIGN, self.foreign))
        )
        return tuple(own if model == self.position else foreign for model in range(models))

    def block(self, block: Block) -> Block:
        """Return a block with its changes multiplied; facts of whole models stay those of the changes as they are."""
        factors = self.factors(block, len(block.deltas))
        deltas = block.deltas * block.deltas.new_tensor(factors)[:, None, None]  # (T, rows, columns)
        return replace(block, deltas=deltas, once=lambda question, find: block.once((factors, question), find))
