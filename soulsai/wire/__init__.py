"""What crosses the network: messages, keys and rights, and one connection per role."""
