"""What a record holds: an article, in lines, or the reason why it is none."""
