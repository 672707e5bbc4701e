"""The base of auxiliaries made for classification: they end in one vector an image and in a classifier of their own."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..local import Activation, Auxiliary, Site, Task

__all__ = ['ClassifierAuxiliary']


class ClassifierAuxiliary(Auxiliary):
    """An auxiliary whose `forward` returns vectors (N, D), which a classifier of the model's kind reads.

    Args:
        site: See `Auxiliary`.
        head: `private` for the model's kind of head, or a dict as in `Auxiliary`.

    Raises:
        ValueError: If `head` is `shared`: the model's own head reads other features.
    """

    reads_taps = False
    num_features: int
    """D."""

    def __init__(self, site: Site, head: dict[str, Any] | str = 'private') -> None:
        if head == 'shared':
            raise ValueError(
                f"auxiliary.head='shared' does not go with man_mm.{type(self).__name__}, whose features are not those "
                "that the model's head reads. Use 'private'."
            )
        super().__init__(site, head=head)

    @abstractmethod
    def forward(self, x: Activation, taps: Mapping[str, Tensor]) -> Tensor:
        """Return vectors (N, D) that carry the graph of `x`; the bank is not read."""

    def local_losses(self, x: Activation, taps: Mapping[str, Tensor], task: Task) -> dict[str, Any]:
        """See `Auxiliary.local_losses`."""
        return task.loss((self(x, taps),))

    def head_width(self, in_channels: int) -> int:
        """See `Auxiliary.head_width`."""
        return self.num_features

    def adopt_head(self, name: str, module: nn.Module) -> None:
        """See `Auxiliary.adopt_head`."""
        try:
            super().adopt_head(name, module)
        except ValueError as error:
            raise ValueError(
                f'{error} man_mm.{type(self).__name__} is a rule for classifiers; for detectors there are man_mm.SLM '
                'and man_mm.DGLPyramid.'
            ) from None

    def refuse_single_image(self, x: Tensor) -> None:
        """Raise ValueError for a training batch of one image, of which no vector can be batch-normalised."""
        if self.training and x.shape[0] == 1:
            raise ValueError(
                f'a batch of one image: man_mm.{type(self).__name__} normalises vectors over the batch. Set '
                'train_dataloader.batch_size to 2 or more, and train_dataloader.drop_last=True if the last batch of an '
                'epoch has one image.'
            )
