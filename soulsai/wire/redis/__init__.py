"""The wire over a real Redis or Valkey, 7.0 or later."""
