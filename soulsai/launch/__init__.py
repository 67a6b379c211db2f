"""Runs both nodes and clients on one machine: ``soulsai train``, and clients placed by Ray."""
