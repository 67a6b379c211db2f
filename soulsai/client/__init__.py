"""A client: plays environments and sends the experience."""
