"""ONNX Runtime: takes the graph as ONNX, one node to one node."""

import os

from .backend import OnnxRuntime

BACKEND = OnnxRuntime()

# This runs before planish imports the runtime anywhere. Newer versions otherwise look up a host, to report how they are
# used, and keep a database in the home folder. A user who has set the variable has decided on it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
