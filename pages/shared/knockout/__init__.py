"""Knock-outs on a page: what is asked, the runs, what they found."""
