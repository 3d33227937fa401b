"""How raw dumps become clean text: formats, records, rules, and the processes that apply them."""
