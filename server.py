"""The app as a server: Streamlit's, behind a door that lets in the app's own pages alone."""

import streamlit as st
from starlette.middleware import Middleware
from streamlit.starlette import App

from nmerge_core.errors import InputError
from nmerge_core.runs.failure import of_surroundings, sentence
from pages.shared.frame.door import Door, configured
from pages.shared.frame.text import verbatim


def tell(error: Exception) -> bool:
    """Show in a sentence what a page found wrong with a file, or with the disk; false for a failure of ours."""
    if not (isinstance(error, InputError) or of_surroundings(error)):
        return False
    st.error(verbatim(error if isinstance(error, InputError) else sentence(error)))
    return True


app = App("app.py", middleware=[Middleware(Door, **configured())], on_script_error=tell)
