"""The same page, or the same text, in several places."""
