"""What every algorithm is to the engine: one module with three ways to call it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from openlab.structures.data_sample import DataSample

Mode = Literal['tensor', 'loss', 'predict']


class Algorithm(nn.Module, ABC):
    """Base of all algorithms.

    Args:
        preprocessor: module that the engine calls as ``preprocessor(batch, training)`` to
            normalise, pad and move a collated batch; it returns ``{'inputs': ..., 'samples':
            ...}``. ``None`` where the batch is ready as it comes.

    Attributes:
        needs_maps: whether the backbone has to give feature maps of certain strides; a
            classifier takes whatever it is that a network gives.
        gives_features: whether predictions are features, which say nothing of an image until
            they are compared with others or a head is trained on them.
    """

    needs_maps: ClassVar[bool] = True
    gives_features: ClassVar[bool] = False

    def __init__(self, preprocessor: nn.Module | None = None):
        super().__init__()
        self.preprocessor = preprocessor

    def forward(self, inputs: Any, samples: list[DataSample] | None = None,
                mode: Mode = 'tensor') -> Any:
        """Return raw outputs, a dict of losses, or predictions, by ``mode``.

        Everything goes through ``forward`` so that wrappers (DDP, FSDP2, compile) see it.
        """
        outputs = self.outputs(inputs, samples)
        if mode == 'tensor':
            return outputs
        if samples is None:
            raise ValueError(f"mode={mode!r} needs samples; mode='tensor' works without")
        if mode == 'loss':
            return self.loss(outputs, samples)
        if mode == 'predict':
            return self.predict(outputs, samples)
        raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', not {mode!r}")

    @abstractmethod
    def outputs(self, inputs: Any, samples: list[DataSample] | None = None) -> Any:
        """Run the network: inputs to raw outputs."""

    def outputs_of_maps(self, feats: Sequence[Tensor], inputs: Tensor,
                        samples: list[DataSample] | None = None) -> Any:
        """Run what follows the backbone; ``outputs`` is this on the backbone's maps.

        Algorithms that offer it can share a backbone with others (``MultiTask``).

        Args:
            feats: maps of the backbone, finest first.
            inputs: the images (B, 3, H, W) that they are of.
            samples: as in ``forward``.
        """
        raise NotImplementedError(f'{type(self).__name__} cannot share a backbone: it has no '
                                  'outputs_of_maps')

    @abstractmethod
    def loss(self, outputs: Any, samples: list[DataSample]) -> dict[str, Tensor]:
        """Losses by name, each a scalar mean; those named ``loss...`` are summed and minimised.

        ``num_items`` may state how many valid items the means were taken over (default: the
        number of samples); gradient accumulation and several processes weight by it.
        """

    @abstractmethod
    def predict(self, outputs: Any, samples: list[DataSample]) -> list[DataSample]:
        """One new sample of predictions for each input sample, carrying its ``meta``."""

    def after_step(self) -> None:
        """The optimizer has moved the parameters; nothing to do for most.

        The loop calls it once for each step (with accumulation: not for each batch). Algorithms
        with a second network that follows the first, such as a momentum encoder, move it here.
        """
