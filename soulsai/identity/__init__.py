"""Identities: secrets, certificates, and enrolled clients."""
