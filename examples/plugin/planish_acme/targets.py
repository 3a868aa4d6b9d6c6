"""The device."""

from pathlib import Path

ACME_BOX = Path(__file__).with_name("acme-box.toml")
