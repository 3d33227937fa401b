"""One script per performance claim, against a peer in the same run: `python -m bench.NAME`."""
