"""Which layers are whose, of a model that has an encoder and a decoder, or several encoders."""

import streamlit as st

from nmerge_core.activations.store import Classification


def tell_stacks(found: Classification) -> None:
    """Say which layers each stack has, where there are several."""
    if found.stacks:
        named = ", ".join(f"{name} {layers[0]} to {layers[-1]}" for name, layers in found.stacks.items())
        st.caption(f"Layers by stack: {named}.")
