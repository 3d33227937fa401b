"""Parts of the training loop that train.py puts together."""
