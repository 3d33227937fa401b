"""How cleaned text becomes token windows: what is to do, in batches, several files at once."""
