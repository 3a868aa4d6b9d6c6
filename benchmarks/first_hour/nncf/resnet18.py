import nncf
import numpy as np
import onnx

images = np.load("images.npz")["image"]
dataset = nncf.Dataset([{"image": image[None]} for image in images])
onnx.save(nncf.quantize(onnx.load("resnet18.onnx"), dataset, subset_size=len(images)), "out.onnx")
