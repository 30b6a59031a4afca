"""CA-Conv-BiLSTM, the baseline of the K-Branch paper: one attention map per class and an LSTM over the classes.

Hua, Mou, Zhu 2019 (arXiv 1807.11245), from its abstract: a CNN extracts feature maps, a class attention layer computes
class-specific features, and a bidirectional LSTM models the dependency between classes. From the comparison in
K-Branch's paper (arXiv 1902.11274, section 3): the CNN is K-Branch's first branch, on the stack of all bands, with the
20 and 60 m bands interpolated bicubically; 128 LSTM units; each label is decided by the node of its class.

The full first paper was not available. Our choices: class attention is a 1 x 1 convolution to one map per class, whose
flattened pixels are the class's step in the sequence; one Linear reads the labels from all nodes; the image is not cut
into areas, and the branch has no fully connected layer; LSTM weights are initialised uniformly in [-0.1, 0.1], because
K-Branch's paper mentions a special initialisation without giving it, and all others by Xavier.
"""

from collections.abc import Mapping, Sequence
from typing import final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rspretrain.nn.backbones import Backbone
from rspretrain.nn.classifiers.base import Classifier, ClassifierSettings
from rspretrain.nn.classifiers.k_branch import NUM_POOLED, WIDTH, GridSettings, convolutions, xavier_
from rspretrain.nn.norm import synchronise_norms

LSTM_REACH = 0.1
FINEST = "s2_10m"


class CaConvBilstmSettings(ClassifierSettings, GridSettings):
    """Class attention on the first branch of K-Branch; here `areas` only sets the image size."""

    name: str = Field(
        default="ca_conv_bilstm",
        description="CA-Conv-BiLSTM on Sentinel-2: class attention and a bidirectional LSTM over the classes.",
    )

    def own_inputs(self) -> dict[str, tuple[str, ...]]:
        """See ClassifierSettings."""
        return self.bands()


@final
class CaConvBilstm(Classifier):
    """Logits [B K] from the groups s2_10m [B 4 120 120], s2_20m [B 6 60 60] and s2_60m [B 2 20 20]. See Classifier."""

    Settings = CaConvBilstmSettings

    def __init__(
        self,
        settings: CaConvBilstmSettings,
        backbones: Sequence[Backbone],
        num_classes: int,
        bands: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`backbones` is empty, and `bands` are those of the settings."""
        super().__init__(settings.bands(), settings.px(), num_classes)
        self.convs, width = convolutions(sum(map(len, self.bands.values())), FINEST, settings.filters)
        self.class_attention = nn.Conv2d(width, num_classes, 1)
        side = self.px[FINEST] >> NUM_POOLED[FINEST]
        self.lstm = nn.LSTM(side * side, WIDTH, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * WIDTH, 1)
        xavier_(self)
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("weight"):
                nn.init.uniform_(parameter, -LSTM_REACH, LSTM_REACH)
        synchronise_norms(self)

    def classify(self, images: dict[str, Tensor]) -> Tensor:
        """See Classifier."""
        nodes = self.lstm(self._maps(images).flatten(2))[0]  # [B K 256]
        logits: Tensor = self.head(nodes).squeeze(2)
        return logits

    @torch.no_grad()
    def attention_maps(self, images: dict[str, Tensor]) -> Tensor:
        """Attention [B K h w] of every class at every location, not normalised."""
        return self._maps(self.fill_missing(images))

    def _maps(self, images: dict[str, Tensor]) -> Tensor:
        px = self.px[FINEST]
        stack = [x if x.shape[-1] == px else F.interpolate(x, size=(px, px), mode="bicubic") for x in images.values()]
        maps: Tensor = self.class_attention(self.convs(torch.cat(stack, dim=1)))
        return maps
