planish quantize resnet18.onnx -d images.npz -b onnxruntime -o int8
