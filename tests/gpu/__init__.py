"""Updates on a GPU beside those on the processor."""
