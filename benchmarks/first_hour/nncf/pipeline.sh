# tried: nncf.quantize(onnx.load("pipeline.onnx"), dataset): KeyError: 'variable', in eliminate_nop_cast
# tried: openvino.Core().read_model("pipeline.onnx"): no conversion rule for ai.onnx.ml.ArrayFeatureExtractor, ai.onnx.ml.Scaler
python pipeline.py
