"""The wire format, without any I/O: messages, the native codec, the MDP codec, payloads."""
