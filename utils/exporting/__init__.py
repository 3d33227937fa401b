"""Trained models in the formats of other programs; used by export.py."""
