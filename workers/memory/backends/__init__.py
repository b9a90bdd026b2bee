"""The engines behind the store interface: memory alone, LMDB, Redis or Valkey."""
