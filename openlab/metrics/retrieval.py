"""How well images of the same thing are found.

N items · Q queries · G items of the gallery · D embedding
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openlab.metrics.base import Metric
from openlab.metrics.labels import true_labels
from openlab.registry import METRICS
from openlab.structures.data_sample import DataSample

ROLES = ('both', 'query', 'gallery')


@METRICS.register_module()
class RetrievalMetric(Metric):
    """``mAP``, ``recall@k`` and ``precision@k`` of ranking a gallery for each query by angle.

    ``recall@k`` is, as everywhere in image retrieval, the share of queries with at least one
    match among the first k; ``precision@k`` the share of matches among the first k (among all
    where the gallery is smaller); ``mAP`` the mean, over queries, of the precision at each match.
    Items match whose class is the same. Queries without a match in the gallery are left out of
    the means; ``queries`` tells how many are left.

    An item's ``meta['role']`` is ``'query'`` or ``'gallery'``; items without are both, and are
    compared with all but themselves. Equal scores keep the order of the gallery. State: the
    embeddings, 4 D bytes for each item.

    Args:
        recall: the k of recall.
        precision: the k of precision.
        name: prefix of the result names.
    """

    name = 'retrieval'

    def __init__(self, recall: Sequence[int] = (1, 5, 10), precision: Sequence[int] = (1, 5, 10),
                 name: str | None = None):
        self.recall, self.precision = tuple(recall), tuple(precision)
        if min((*self.recall, *self.precision), default=1) < 1:
            raise ValueError(f'k must be at least 1, got {list(recall)} and {list(precision)}')
        super().__init__(name)

    def reset(self) -> None:
        """Forget everything seen."""
        self.embeddings: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.roles: list[int] = []

    def update(self, predictions: list[DataSample], samples: list[DataSample]) -> None:
        """Keep embeddings, true classes and roles of a batch."""
        if not predictions:
            return
        if any('embedding' not in p.extra for p in predictions):
            raise ValueError("RetrievalMetric needs extra['embedding'] in predictions, as "
                             'ImageRetriever gives')
        self.embeddings.append(torch.stack([p.extra['embedding'].float() for p in predictions]))
        self.labels.append(true_labels(samples))
        for sample in samples:
            role = sample.meta.get('role', 'both')
            if role not in ROLES:
                raise ValueError(f"meta['role'] is 'query' or 'gallery', not {role!r}")
            self.roles.append(ROLES.index(role))

    def compute(self) -> dict[str, float]:
        """All results, in [0, 1], and the number of queries that count.

        Raises:
            ValueError: if no query has anything to find.
        """
        if not self.embeddings:
            raise ValueError('RetrievalMetric has seen no item: is the evaluation dataset empty?')
        embeddings = F.normalize(torch.cat(self.embeddings), dim=1)
        labels, roles = torch.cat(self.labels), torch.tensor(self.roles)
        queries = (roles != ROLES.index('gallery')).nonzero()[:, 0]
        gallery = (roles != ROLES.index('query')).nonzero()[:, 0]
        rows = max(2**24 // max(len(gallery), 1), 1)
        parts = [self._of_queries(embeddings, labels, part, gallery)
                 for part in queries.split(rows)]
        values = torch.cat(parts) if parts else torch.zeros(0, 1)
        if not len(values):
            raise ValueError(f'none of {len(queries)} queries has a match among {len(gallery)} '
                             'items of the gallery')
        names = ['mAP', *(f'recall@{k}' for k in self.recall),
                 *(f'precision@{k}' for k in self.precision)]
        return dict(zip(names, values.mean(0).tolist())) | {'queries': float(len(values))}

    def _of_queries(self, embeddings: Tensor, labels: Tensor, queries: Tensor,
                    gallery: Tensor) -> Tensor:
        """Results of some queries, a row for each that has anything to find, float64."""
        scores_QG = embeddings[queries] @ embeddings[gallery].T
        is_itself = queries[:, None] == gallery[None]
        scores_QG = scores_QG.masked_fill(is_itself, -torch.inf)
        order = scores_QG.argsort(dim=1, descending=True, stable=True)
        match_QG = (labels[queries][:, None] == labels[gallery][None]) & ~is_itself
        match_QG = match_QG.gather(1, order)
        match_QG = match_QG[match_QG.any(1)]
        if not len(match_QG):
            return torch.zeros(0, 1 + len(self.recall) + len(self.precision), dtype=torch.float64)
        found_QG = match_QG.double().cumsum(1)
        rank = torch.arange(1, len(gallery) + 1, dtype=torch.float64)
        columns = [(found_QG / rank * match_QG).sum(1) / found_QG[:, -1]]
        # An item that is a query too is last in its own ranking, behind everything that counts.
        longest = len(gallery) - int(is_itself.any())
        for k in self.recall:
            columns.append((found_QG[:, min(k, longest) - 1] > 0).double())
        for k in self.precision:
            columns.append(found_QG[:, min(k, longest) - 1] / min(k, longest))
        return torch.stack(columns, dim=1)

    def state(self) -> dict[str, Any]:
        """Embeddings, labels and roles of all batches."""
        return {'embeddings': self.embeddings, 'labels': self.labels, 'roles': self.roles}

    def merge(self, states: list[dict[str, Any]]) -> None:
        """Put the batches of all processes one after the other."""
        self.embeddings = [t for s in states for t in s['embeddings']]
        self.labels = [t for s in states for t in s['labels']]
        self.roles = [r for s in states for r in s['roles']]
