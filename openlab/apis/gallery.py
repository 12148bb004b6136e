"""The images that a search looks through.

D embedding · G images of the gallery
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openlab.visualization.draw import BLACK, add_caption, draw_grid

MOST_MATCHES = 100  # images that answer a query
THUMBNAIL = 192  # pixels of the height of a small picture


class Gallery:
    """Names, embeddings and small pictures of images.

    Attributes:
        names: what each image is called.
        vectors: directions of the embeddings, (G, D) float32.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._vectors: list[Tensor] = []
        self._pictures: list[np.ndarray] = []
        self.vectors = torch.zeros(0, 0)

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str, image: np.ndarray, embedding: Tensor) -> None:
        """Take in one image, (H, W, 3) RGB uint8, with its embedding, (D,)."""
        self.names.append(name)
        # Encoded, ten thousand of them are some 60 MB.
        coded = cv2.cvtColor(thumbnail(image), cv2.COLOR_RGB2BGR)
        self._pictures.append(cv2.imencode('.jpg', coded)[1])
        self._vectors.append(embedding)

    def close(self) -> None:
        """All images are in.

        Raises:
            ValueError: if there are none.
        """
        if not self._vectors:
            raise ValueError('the gallery holds no image that can be read')
        self.vectors = F.normalize(torch.stack(self._vectors).float(), dim=1)
        self._vectors.clear()

    def search(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and indices of the most alike images of each query, (B, n), the best first."""
        cosines = F.normalize(embeddings.float(), dim=1) @ self.vectors.to(embeddings.device).T
        found = cosines.topk(min(len(self), MOST_MATCHES), dim=1)
        return found.values, found.indices

    def picture(self, index: int) -> np.ndarray:
        """Small picture of an image, RGB."""
        picture = cv2.imdecode(self._pictures[index], cv2.IMREAD_COLOR)
        assert picture is not None  # it was encoded here
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)

    def draw(self, query: np.ndarray, matches: Sequence[int], scores: Sequence[float]
             ) -> np.ndarray:
        """The query beside what was found, each under its name and cosine, as one picture."""
        panels = [add_caption(thumbnail(query), [('query', BLACK)])]
        panels += [
            add_caption(self.picture(i), [(f'{score:.3f}', BLACK), (self.names[i], BLACK)])
            for i, score in zip(matches, scores)]
        return draw_grid(panels, columns=len(panels))


def thumbnail(image: np.ndarray) -> np.ndarray:
    """An image at the height of small pictures; panoramas are cut to twice that width."""
    height, width = image.shape[:2]
    fitting = max(1, min(round(width * THUMBNAIL / height), 2 * THUMBNAIL))
    how = cv2.INTER_AREA if height > THUMBNAIL else cv2.INTER_CUBIC
    return cv2.resize(image[:, : max(1, round(fitting * height / THUMBNAIL))],
                      (fitting, THUMBNAIL), interpolation=how)
