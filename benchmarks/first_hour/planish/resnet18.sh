planish quantize resnet18.onnx -d images.npz -b onnxruntime -o out
