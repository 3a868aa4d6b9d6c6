"""Models whose answers can be judged, by name: those that packages ship, and those that are trained here."""

from enum import StrEnum
from functools import partial
from pathlib import Path

import quantization_subjects as shipped
from quantization_subjects import Subject


class Model(StrEnum):
    """What there is; those from `small_cnn` on are trained, or read from a cache."""

    MINILM = "minilm"
    PARAPHRASE = "paraphrase"
    OCR = "ocr"
    MAGIKA = "magika"
    BASIC_PITCH = "basic_pitch"
    SMALL_CNN = "small_cnn"
    HIDDEN_CNN = "hidden_cnn"
    RESNET20 = "resnet20"
    VIT = "vit"
    LSTM = "lstm"
    MOBILENET_V2 = "mobilenet_v2"
    MOBILENET_V3 = "mobilenet_v3_large"
    DEIT = "deit"


SHIPPED = {
    Model.MINILM: shipped.minilm,
    Model.PARAPHRASE: shipped.paraphrase,
    Model.OCR: shipped.recognition,
    Model.MAGIKA: shipped.magika,
    Model.BASIC_PITCH: shipped.basic_pitch,
}


def subject(model: Model, work: Path, root: Path, cache: Path, epochs: int) -> Subject:
    """Return a model with its data.

    Args:
        model: the model to return.
        work: a folder for its file.
        root: the folder where Fashion-MNIST and vaderSentiment's archive are unpacked.
        cache: the folder where trained weights are kept.
        epochs: the number of epochs of training.
    """
    if model in SHIPPED:
        return SHIPPED[model](work)
    import quantization_trained as networks

    made = {
        Model.SMALL_CNN: networks.small_cnn,
        Model.HIDDEN_CNN: networks.hidden_cnn,
        Model.RESNET20: networks.resnet20,
        Model.VIT: networks.vit,
        Model.LSTM: networks.sentiment,
    }
    return made.get(model, partial(networks.cnn, model))(work, root, cache, epochs)
