olive run --config resnet18.json
