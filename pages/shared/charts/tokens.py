"""A text as a strip of shaded tokens of which one is chosen."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import streamlit as st

from nmerge_core.figures.departure import Piece

SCRIPT = Path(__file__).with_name("tokens.js").read_text(encoding="utf-8")
HTML = '<div class="token-strip" role="listbox" aria-orientation="horizontal"></div>'
CSS = """
.token-strip { white-space: pre-wrap; tab-size: 4; overflow-wrap: anywhere; line-height: 1.7; font-size: .95rem;
  font-family: var(--st-code-font); max-height: 22rem; overflow-y: auto; padding: .25rem; }
.token-strip [role=option] { border-radius: 3px; padding: .1em 0; cursor: pointer; }
.token-strip [role=option]:hover { outline: 1px solid var(--st-border-color); }
.token-strip [aria-selected=true] { outline: 2px solid var(--st-text-color); }
.token-strip [role=option]:focus-visible { outline: 3px solid var(--st-link-color); }
"""


def token_strip(key: str, pieces: Sequence[Piece], first: int) -> int:
    """Draw the tokens and return the place of the chosen one, `first` at the start."""
    chosen = min(st.session_state.get(_chosen(key), first), len(pieces) - 1)
    strip = st.components.v2.component("strip", html=HTML, css=CSS, js=SCRIPT, isolate_styles=False)
    data = {"pieces": [asdict(piece) for piece in pieces], "chosen": chosen, "label": "Tokens of the text"}
    strip(key=key, data=data, on_token_change=lambda: choose_token(key, st.session_state[key]["token"]))
    return int(chosen)


def choose_token(key: str, token: int) -> None:
    """Choose a token of a strip, in a callback."""
    st.session_state[_chosen(key)] = token


def _chosen(key: str) -> str:
    return f"{key}_chosen"
