"""Whether a decoder layer is wired as its form says, as families put modules of the same names together otherwise."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from nmerge_core.errors import InputError
from nmerge_core.nonlinearity.submodules import Inputs, Submodule, Weights


def check_wiring(
    reference: str,
    layer: str,
    run: Callable[[Weights], Tensor],
    weights: Weights,
    submodules: Sequence[Submodule],
    inputs: Inputs,
    written: Mapping[str, Tensor],
) -> None:
    """Check that submodules write what the layer's own modules write, and that no weight acts beside them.

    Args:
        reference: the model, for errors.
        layer: the layer's name, for errors.
        run: what runs the layer at its weights.
        weights: all of the layer's.
        submodules: its attention and its MLP.
        inputs: what they read when the layer is run.
        written: what the last module of each wrote then, (n, d_model), but of one that adds the residual stream itself.

    Raises:
        InputError: the layer cannot be measured; the message names the submodule or the weight.
    """
    usual = [each.output(each.base, inputs) for each in submodules]  # (n, d_model)
    for submodule, found in zip(submodules, usual, strict=True):
        if not _near(found, written.get(submodule.kind, found)):
            raise _refused(reference, f"the {submodule.kind} of {layer} is wired otherwise than in families known")
    before = run(weights)
    for name, weight in weights.items():
        other = {name: weight + 1}
        felt = (
            not torch.equal(each.output(each.base | other, inputs), own)
            for each, own in zip(submodules, usual, strict=True)
            if name in each.base
        )
        if not _near(run(weights | other), before) and not any(felt):
            raise _refused(reference, f"{layer}.{name} acts beside its attention and its MLP")


def _near(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def _refused(reference: str, reason: str) -> InputError:
    return InputError(f"{reference}: {reason}; this family's layers cannot be measured yet")
