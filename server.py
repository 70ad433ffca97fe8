"""The app as a server: Streamlit's, behind a door that lets in the app's own pages alone."""

from starlette.middleware import Middleware
from streamlit.starlette import App

from pages.shared.door import Door, configured

app = App("app.py", middleware=[Middleware(Door, **configured())])
