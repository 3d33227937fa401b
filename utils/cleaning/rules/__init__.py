"""What is mended in the text of articles, line by line."""
