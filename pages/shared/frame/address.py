"""Settings of an address or of another visit that today's controls cannot take: numbers without end, other layers."""

import math
from collections.abc import Sequence
from typing import Any

import streamlit as st

ENDLESS = "settings_endless"  # the key of what the address asked for and `forget_endless` took out of it


def asked_number(key: str) -> float | None:
    """The number that the address has under `key`, infinite where it has more digits than a number can; else None."""
    try:
        return float(st.query_params.get(key, ""))
    except ValueError:
        return None


def forget_endless(key: str) -> None:
    """Draw the page without an infinite number in its address: Streamlit's control of whole numbers breaks on it."""
    number = asked_number(key)
    if number is not None and math.isinf(number):
        st.session_state[ENDLESS] = {**st.session_state.get(ENDLESS, {}), key: st.query_params.get_all(key)}
        del st.query_params[key]
        st.rerun()


def forget_outside(key: str, low: float, high: float) -> None:
    """Forget a number kept from another visit that is out of today's range: another family may have fewer layers."""
    forget_endless(key)
    kept = st.session_state.get(key)
    if kept is None:
        return
    values: Sequence[float] = kept if isinstance(kept, list | tuple) else [kept]
    if not all(low <= value <= high for value in values):
        del st.session_state[key]


def forget_unknown(key: str, options: Any) -> None:
    """Forget a choice kept from another visit that is none of today's options."""
    kept = st.session_state.get(key)
    values = kept if isinstance(kept, list | tuple) else [kept]
    if kept is not None and not all(value in options for value in values):
        del st.session_state[key]
