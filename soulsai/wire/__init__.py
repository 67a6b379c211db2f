"""The network between nodes and clients: messages, keys and rights, one wire per role."""
