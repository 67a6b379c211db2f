"""The client: plays, and sends what happened."""
