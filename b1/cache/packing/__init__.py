"""How values become bytes for the shared store: the envelope, compression, dictionaries."""
