"""How good are features as they are? Nearest neighbours and a linear classifier tell.

Features of all images are computed once; everything after works on two tensors. Nothing of the
network is trained.

* Weighted votes of neighbours: Caron et al., DINO, https://arxiv.org/abs/2104.14294, appendix F;
  Wu et al., https://arxiv.org/abs/1805.01978
* Logistic regression with its penalty chosen on held-out items: Radford et al., CLIP,
  https://arxiv.org/abs/2103.00020, appendix A.3

N items to learn from · M items to judge · D features · K classes
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.metrics.confidence import wilson_interval
from openlab.metrics.neighbours import check_features, knn_votes

PENALTIES = tuple(10.0**power for power in range(-6, 2))


@dataclass(frozen=True)
class Score:
    """An accuracy and how sure it is.

    Attributes:
        value: share of items that were right, 0 to 1.
        low: lower end of the confidence interval.
        high: its upper end.
        total: number of items, M.
    """

    value: float
    low: float
    high: float
    total: int

    def __str__(self) -> str:
        return f'{self.value:.4f} ({self.low:.4f} to {self.high:.4f}, {self.total} items)'


@dataclass(frozen=True)
class LinearProbe:
    """What ``linear_probe`` found.

    Attributes:
        score: accuracy on the items to judge.
        l2: the penalty that was chosen.
        tried: accuracy on held-out training items by penalty; empty where there was one only.
        weight: of the classifier on standardised features, (K, D).
        bias: (K,).
        mean: of the features, (D,).
        std: (D,).
    """

    score: Score
    l2: float
    tried: dict[float, float]
    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor

    def logits(self, feats: Tensor) -> Tensor:
        """Logits (M, K) of features (M, D)."""
        return (feats.to(self.weight) - self.mean) / self.std @ self.weight.T + self.bias


@torch.no_grad()
def extract_features(model: nn.Module, loader: Iterable[Any], layer: str | None = None,
                     ) -> tuple[Tensor, Tensor]:
    """Features of every item of a loader, in its order, on the CPU.

    Args:
        model: an algorithm; it is put into evaluation mode. Features are what its ``embed`` (a
            retriever) or ``encode_images`` (zero-shot) gives, else the last output of backbone
            and neck, averaged over its places.
        loader: gives batches as training gets them; samples need a ``label``.
        layer: name of a module whose output to take instead, averaged over its places.

    Returns:
        Features (N, D) float32 and class indices (N,) int64.

    Raises:
        ValueError: if there is no item, or one without a label.
    """
    from openlab.apis.visualization import preprocess

    model.eval()
    embed = embedder(model, layer)
    feats: list[Tensor] = []
    labels: list[int] = []
    for data_batch in loader:
        batch = preprocess(model, data_batch)
        vectors = embed(batch['inputs']).float().cpu()
        for vector, sample in zip(vectors, batch['samples'], strict=True):
            if sample.meta.get('is_repeat'):
                continue
            if sample.label is None:
                raise ValueError(f'a probe needs one label for each item, {sample.meta} has none')
            feats.append(vector)
            labels.append(int(sample.label))
    if not feats:
        raise ValueError('there is no item to take features of: is the dataset empty?')
    return torch.stack(feats), torch.tensor(labels)


def embedder(model: nn.Module, layer: str | None = None) -> Callable[[Any], Tensor]:
    """What makes a vector (B, D) of each image, see ``extract_features``."""
    if layer is not None:
        return _layer_embedder(model, layer)
    for name in ('embed', 'encode_images'):
        if hasattr(model, name):
            return getattr(model, name)
    inner: Any = getattr(model, 'feats', None) or getattr(model, 'backbone', None)
    if inner is None:
        raise ValueError(f'{type(model).__name__} has neither embed nor a backbone; name the '
                         'module whose output to take (layer)')
    return lambda inputs: _pooled(inner(inputs))


def _layer_embedder(model: nn.Module, layer: str) -> Callable[[Any], Tensor]:
    from openlab.visualization.cam import find_layer

    module = find_layer(model, layer)

    def embed(inputs: Any) -> Tensor:
        found: list[Tensor] = []
        handle = module.register_forward_hook(lambda _, __, output: found.append(_pooled(output)))
        try:
            model(inputs)
        finally:
            handle.remove()
        if not found:
            raise ValueError(
                f'{type(model).__name__} has a layer {layer!r}, but does not run it to make '
                f'features; layers that it runs: {", ".join(_layers_that_run(model, inputs))}')
        return found[-1]

    return embed


def _layers_that_run(model: nn.Module, inputs: Any) -> list[str]:
    """Names of modules, down to the third level, that one pass goes through."""
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda _, __, ___, name=name: ran.append(name))
        for name, module in model.named_modules() if name and name.count('.') < 3]
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return sorted(set(ran))


def _pooled(output: Tensor | Sequence[Tensor]) -> Tensor:
    """One vector for each image: places of a map, or tokens, averaged."""
    value = output if isinstance(output, Tensor) else output[-1]
    if value.ndim == 4:
        return value.mean((2, 3))
    return value.mean(1) if value.ndim == 3 else value


def score_of(predicted: Tensor, labels: Tensor, confidence: float = 0.95) -> Score:
    """Accuracy of predicted classes (M,) with Wilson's interval.

    Raises:
        ValueError: if there are no items, or ``confidence`` is no share.
    """
    if not 0 < confidence < 1:
        raise ValueError(f'confidence must lie between 0 and 1, got {confidence}')
    hits, total = int((predicted == labels).sum()), len(labels)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    low, high = wilson_interval(hits, total, z)
    return Score(hits / total, low, high, total)


def knn_accuracy(train_feats: Tensor, train_labels: Tensor, test_feats: Tensor | None = None,
                 test_labels: Tensor | None = None, k: int = 20, temperature: float = 0.07,
                 confidence: float = 0.95) -> Score:
    """Accuracy of the votes of neighbours, see ``knn_votes``.

    Args:
        train_feats: (N, D).
        train_labels: (N,).
        test_feats: (M, D); by default each training item is judged by the others.
        test_labels: (M,).
        k: number of neighbours.
        temperature: of the weights of votes.
        confidence: of the interval.
    """
    if (test_feats is None) != (test_labels is None):
        raise ValueError('test_feats and test_labels go together')
    labels = train_labels if test_labels is None else test_labels
    num_classes = int(torch.cat([train_labels, labels]).max()) + 1
    votes = knn_votes(train_feats, train_labels, test_feats, k, temperature, num_classes)
    return score_of(votes.argmax(1), labels, confidence)


def linear_probe(train_feats: Tensor, train_labels: Tensor, test_feats: Tensor,
                 test_labels: Tensor, l2: float | Sequence[float] = PENALTIES,
                 held_out: float = 0.2, max_iters: int = 300, seed: int = 0,
                 confidence: float = 0.95) -> LinearProbe:
    """Fit a linear classifier to standardised features and judge it.

    It minimises the mean cross entropy plus ``l2 / 2`` times the squared weights (scikit-learn's
    ``C`` is ``1 / (l2 N)``), to convergence, by L-BFGS.

    Args:
        train_feats: (N, D).
        train_labels: (N,).
        test_feats: (M, D).
        test_labels: (M,).
        l2: the penalty; of several the one that is best on held-out training items is used, and
            the classifier fitted anew to all of them. Of equal ones the strongest.
        held_out: share of each class that is held out for that.
        max_iters: most iterations of a fit.
        seed: of the choice of held-out items.
        confidence: of the interval.

    Raises:
        ValueError: if shapes do not fit, or only one class occurs.
    """
    check_features(train_feats, train_labels)
    check_features(test_feats, test_labels)
    if len(train_labels.unique()) < 2:
        raise ValueError('a classifier needs items of two classes at least')
    penalties = sorted([l2] if isinstance(l2, (int, float)) else l2, reverse=True)
    if not penalties or penalties[-1] < 0:
        raise ValueError(f'l2 must not be negative, nor an empty list, got {l2}')
    num_classes = int(torch.cat([train_labels, test_labels]).max()) + 1
    tried: dict[float, float] = {}
    if len(penalties) > 1:
        chosen = _held_out(train_labels, held_out, seed)
        parts = train_feats[~chosen], train_labels[~chosen]
        fit: LinearProbe | None = None
        for penalty in penalties:
            fit = _fitted(*parts, penalty, num_classes, max_iters, fit)
            hits = fit.logits(train_feats[chosen]).argmax(1) == train_labels[chosen]
            tried[penalty] = hits.double().mean().item()
    best = max(penalties, key=lambda penalty: tried.get(penalty, 0.0))
    final = _fitted(train_feats, train_labels, best, num_classes, max_iters, None)
    score = score_of(final.logits(test_feats).argmax(1), test_labels, confidence)
    return LinearProbe(score, best, tried, final.weight, final.bias, final.mean, final.std)


def _fitted(feats: Tensor, labels: Tensor, l2: float, num_classes: int, max_iters: int,
            start: LinearProbe | None) -> LinearProbe:
    """A classifier, from zero or from another one's weights; its score is not known yet."""
    # Chips are fast in single precision only; on a CPU double costs little and converges surely.
    dtype = torch.float64 if feats.device.type == 'cpu' else torch.float32
    x = feats.to(dtype)
    mean, std = x.mean(0), x.std(0, correction=0)
    # The mean of a constant feature is not exactly it; such noise must not be blown up.
    std = torch.where(std > 1e-6 * (mean.abs() + 1e-6), std, 1.0)
    x = (x - mean) / std
    weight, bias = x.new_zeros(num_classes, x.shape[1]), x.new_zeros(num_classes)
    if start is not None:
        weight, bias = start.weight.clone(), start.bias.clone()
    weight.requires_grad_()
    bias.requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=max_iters, history_size=10,
                                  tolerance_grad=1e-7, tolerance_change=1e-11,
                                  line_search_fn='strong_wolfe')

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, labels) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return LinearProbe(Score(0.0, 0.0, 1.0, 0), l2, {}, weight.detach(), bias.detach(), mean, std)


def _held_out(labels: Tensor, share: float, seed: int) -> Tensor:
    """Mask (N,) of the same share of every class; at least one item, and not all of a class."""
    from openlab.data.datasets.digits import stratified_split

    if not 0 < share < 1:
        raise ValueError(f'held_out must lie between 0 and 1, got {share}')
    chosen = torch.from_numpy(stratified_split(labels.cpu().numpy(), share, seed))
    if not chosen.any():
        chosen[0] = True
    for label in labels.cpu().unique():
        members = (labels.cpu() == label).nonzero()[:, 0]
        if chosen[members].all():
            chosen[members[0]] = False
    if not chosen.any():
        raise ValueError('too few items of each class to choose a penalty; give one l2')
    return chosen.to(labels.device)


def probe(cfg: Mapping[str, Any], weights: str | Path | None, *, k: int = 20,
          temperature: float = 0.07, l2: float | Sequence[float] = PENALTIES,
          layer: str | None = None, max_batches: int | None = None,
          methods: Sequence[str] = ('knn', 'linear')) -> dict[str, Any]:
    """Probe the model of a config on the config's own data.

    Training images are prepared as those of validation, without augmentation, and judged are
    those of validation. A head that the weights lack is no matter.

    Args:
        cfg: by ``load_config``.
        weights: anything that ``load_from`` takes; ``None`` probes what training would start
            from: the ``load_from`` of the config, else initial values.
        k: see ``knn_votes``.
        temperature: see ``knn_votes``.
        l2: see ``linear_probe``.
        layer: see ``extract_features``.
        max_batches: use only so many batches of each part, of items drawn at random.
        methods: ``'knn'``, ``'linear'`` or both.

    Returns:
        ``knn`` (a ``Score``), ``linear`` (a ``LinearProbe``), ``train`` and ``test``: shapes of
        the features.
    """
    unknown = set(methods) - {'knn', 'linear'}
    if unknown or not methods:
        raise ValueError(f"methods are 'knn' and 'linear', got {list(methods)}")
    model = _model(cfg, weights)
    loaders = [_loader(cfg, part, shuffle=max_batches is not None) for part in ('train', 'val')]
    parts = [extract_features(model, _some(loader, max_batches), layer) for loader in loaders]
    (train_feats, train_labels), (test_feats, test_labels) = parts
    results: dict[str, Any] = {'train': tuple(train_feats.shape), 'test': tuple(test_feats.shape)}
    if 'knn' in methods:
        results['knn'] = knn_accuracy(train_feats, train_labels, test_feats, test_labels, k,
                                      temperature)
    if 'linear' in methods:
        results['linear'] = linear_probe(train_feats, train_labels, test_feats, test_labels, l2)
    return results


def _model(cfg: Mapping[str, Any], weights: str | Path | None) -> nn.Module:
    from openlab.apis.summary import best_checkpoint
    from openlab.apis.visualization import build_model
    from openlab.engine.loading import load_weights

    model = build_model(cfg)
    if weights is not None:
        local = None if '://' in str(weights) else best_checkpoint(Path(weights))
        load_weights(model, local or weights, replace_head=not hasattr(model, 'embed'))
    elif cfg.get('load_from'):
        start = cfg['load_from']
        load_weights(model, **(start if isinstance(start, Mapping) else {'source': start}))
    return model


def _loader(cfg: Mapping[str, Any], part: str, shuffle: bool = False) -> Any:
    """A loader over all items of a part, in order or not, prepared as for validation."""
    from openlab.apis.visualization import build_loader

    if not cfg.get('val_dataloader'):
        raise ValueError('a probe needs val_dataloader: how to prepare images, and which to judge')
    loader = copy.deepcopy(dict(cfg[f'{part}_dataloader'] or {}))
    if part == 'train':
        loader['dataset'] = _with_pipeline(loader.get('dataset'),
                                           _pipeline_of(cfg['val_dataloader']['dataset']))
        loader |= {'drop_last': False, 'batch_size': cfg['val_dataloader'].get('batch_size', 1)}
    # The first items alone may be those of one class.
    loader['sampler'] = {'type': 'DefaultSampler', 'shuffle': shuffle}
    return build_loader({f'{part}_dataloader': loader, 'randomness': cfg.get('randomness')}, part)


def _pipeline_of(dataset: Any) -> Any:
    while isinstance(dataset, Mapping):
        if 'pipeline' in dataset:
            return dataset['pipeline']
        inner = dataset.get('dataset')
        dataset = inner if inner is not None else next(iter(dataset.get('datasets') or ()), None)
    raise ValueError('val_dataloader.dataset has no pipeline to prepare images by')


def _with_pipeline(dataset: Any, pipeline: Any) -> Any:
    """A dataset's config in which every inner dataset has this pipeline."""
    if isinstance(dataset, list):
        return [_with_pipeline(d, pipeline) for d in dataset]
    changed = dict(dataset)
    for key in ('dataset', 'datasets'):
        if key in changed:
            changed[key] = _with_pipeline(changed[key], pipeline)
    if not {'dataset', 'datasets'} & changed.keys():
        changed['pipeline'] = pipeline
    return changed


def _some(loader: Iterable[Any], count: int | None) -> Iterable[Any]:
    for index, batch in enumerate(loader):
        if count is not None and index >= count:
            return
        yield batch
