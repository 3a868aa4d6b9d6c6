"""Mixed precision: how much rounding each layer matters, how long each layer takes, and which ones to quantize."""
