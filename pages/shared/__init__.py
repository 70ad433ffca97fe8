"""What the pages share, a room for each thing that they are about; none is a page of its own."""
