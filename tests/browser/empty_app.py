"""An app that does nothing: as fast as it paints and answers, Streamlit, the browser and this machine are."""

import streamlit as st

st.title("Nothing")
step = st.slider("Step", 0, 10, 5, key="step")
clicks = st.session_state.get("clicks", 0) + st.button("Next", key="next")
st.session_state["clicks"] = clicks
with st.container(key="answer"):
    st.write(step, clicks)
