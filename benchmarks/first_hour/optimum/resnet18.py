import numpy as np
from datasets import Dataset
from optimum.onnxruntime import AutoCalibrationConfig, AutoQuantizationConfig, ORTQuantizer

images = Dataset.from_dict({"image": np.load("images.npz")["image"]})
quantizer = ORTQuantizer.from_pretrained("onnx")
scheme = AutoQuantizationConfig.avx512_vnni(is_static=True)
ranges = quantizer.fit(images, AutoCalibrationConfig.minmax(images), operators_to_quantize=scheme.operators_to_quantize)
quantizer.quantize(scheme, "out", calibration_tensors_range=ranges)
