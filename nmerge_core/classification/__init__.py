"""Categories of neurons: voted, how sure, how far two agree, and what random labels would give."""
