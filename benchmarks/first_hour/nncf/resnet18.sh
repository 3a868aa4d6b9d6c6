python resnet18.py
