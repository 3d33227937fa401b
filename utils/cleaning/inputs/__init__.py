"""Raw files of every kind, as a stream of lines."""
