"""How well distances between embeddings agree with people's judgement."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr


def spearman(predictions: Sequence[Sequence[np.ndarray]], labels: Sequence[np.ndarray]) -> float:
    """Spearman's rank correlation of cosine and judged likeness, over all pairs of documents."""
    embeddings = np.concatenate([outputs[0] for outputs in predictions])
    judged = np.concatenate(labels)
    pairs = np.triu_indices(len(embeddings), k=1)
    return float(spearmanr((embeddings @ embeddings.T)[pairs], judged[pairs]).statistic)
