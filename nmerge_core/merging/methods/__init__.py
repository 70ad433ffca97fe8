"""One file per merge method; importing them registers them."""
