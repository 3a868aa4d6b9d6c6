import nncf
import numpy as np
import onnx

table = np.load("table.npz")["X"]
dataset = nncf.Dataset([{"X": row[None]} for row in table])
onnx.save(nncf.quantize(onnx.load("pipeline.onnx"), dataset), "out.onnx")
