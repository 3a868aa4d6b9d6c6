"""What a machine can do, as data: one TOML file a target, and the machine at hand as `native`."""

from .target import Int8, Target

__all__ = ["Int8", "Target"]
