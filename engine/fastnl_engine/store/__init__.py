"""Where the engine's records live."""
