"""The whole pipeline on any machine: `make demo`."""

from pathlib import Path

DEMO_CONFIG_PATH = Path(__file__).resolve().parent / "config.json"
