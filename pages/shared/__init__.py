"""What the pages share: the chosen family, the frame of a page, runs, charts. No page of its own."""
