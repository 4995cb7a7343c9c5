"""From embeddings to speakers, in memory that does not grow with the length of the recording."""

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]
from scipy.spatial.distance import squareform  # type: ignore[import-untyped]
from sklearn.metrics import silhouette_score

from services.asr.engine import SpeakerBounds

Embeddings = npt.NDArray[np.float32]
Labels = npt.NDArray[np.intp]


def cluster_speakers(
    embeddings: Embeddings, bounds: SpeakerBounds, *, silhouette_threshold: float, max_clustered: int
) -> Labels:
    """Gives every embedding the number of its speaker.

    Agglomerative clustering with average linkage over cosine distances; of all admissible numbers of speakers the one
    with the best mean silhouette (Rousseeuw, 1987) wins. Of more than ``max_clustered`` embeddings an even sample is
    clustered, and each of the rest joins the speaker whose centroid is nearest: the matrix of distances never has
    more than ``max_clustered`` rows.

    Args:
        embeddings: float32 (n, d) of length 1, n >= 1, in the order of time.
        bounds: how many speakers there may be.
        silhouette_threshold: below it, one speaker is assumed where ``bounds`` admit one.

    Returns:
        (n,), from 0.
    """
    count = len(embeddings)
    if count <= max_clustered:
        return _cluster(embeddings, bounds, silhouette_threshold)
    sample = embeddings[np.linspace(0, count - 1, max_clustered).round().astype(np.intp)]
    labels = _cluster(sample, bounds, silhouette_threshold)
    centroids = np.stack([sample[labels == label].mean(0) for label in range(labels.max() + 1)])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    nearest: Labels = np.argmax(embeddings @ centroids.T, axis=1)
    return nearest


def _cluster(embeddings: Embeddings, bounds: SpeakerBounds, threshold: float) -> Labels:
    count = len(embeddings)
    most = min(bounds.most, count)
    least = min(bounds.least, most)
    alone: Labels = np.zeros(count, np.intp)
    if most == 1:
        return alone
    distances = 1.0 - embeddings @ embeddings.T
    np.clip(distances, 0.0, None, out=distances)
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(distances, checks=False), method="average")
    if least == most:
        return _cut(tree, most)
    best_score, best = -2.0, alone
    for speakers in range(max(2, least), min(most, count - 1) + 1):
        labels = _cut(tree, speakers)
        if labels.max() == 0:
            continue
        score = silhouette_score(distances, labels, metric="precomputed")
        if score > best_score:
            best_score, best = score, labels
    return alone if least <= 1 and best_score <= threshold else best


def _cut(tree: npt.NDArray[np.float64], clusters: int) -> Labels:
    labels: Labels = fcluster(tree, clusters, criterion="maxclust").astype(np.intp) - 1
    return labels
