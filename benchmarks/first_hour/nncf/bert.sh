# It compresses weights; activations stay in floats in what it writes.
python bert.py
