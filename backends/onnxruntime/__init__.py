"""ONNX Runtime: takes the graph as ONNX, one node to one node."""

import os

from .backend import OnnxRuntime

BACKEND = OnnxRuntime()

# Wherever planish imports the runtime, this has been run before. Newer ones otherwise look up a host, to tell their makers
# what they are used for, and keep a database below the home folder. Who has set the variable has decided on it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
