"""How Inference.py talks: menus, questions, text as it is generated, and what is said of it."""
