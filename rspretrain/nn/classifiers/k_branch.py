"""K-Branch CNN with BiLSTM and multi-attention: classifies Sentinel-2 without resampling bands.

Sumbul, Demir 2019 (arXiv 1902.11274, first version); docs/methods.md, K-Branch CNN-RNN. The image is cut into R local
areas of 300 m, each in three pixel grids. All areas share the branches; psi_r is the descriptor of area r:

    phi_r = [h_forward_r ; h_backward_r]                          LSTM over the areas, row by row, and back
    A     = softmax(W2 tanh(W1 Omega))                            Omega [256 R] has the phi_r as columns; A [T R]
    z     = Wc vec(max(0, Omega A^T)) + bc                        K logits

Our choices where the paper is silent or contradictory: 32-64-128-64 filters (the paper: 32, doubled, then halved, 64 at
the end of all branches; the authors' code, which has the CNN only, is `released`); pooling, BatchNorm, dropout and the
widths of fully connected layers from that code; six 20 m bands (the paper's list omits B11 and B12); one LSTM per
direction for all areas; softmax over areas, so each of the T hops is a weighted mean of the areas; T = K; W1 with 128
rows. `attention: none` is our baseline: A is the identity, so the classifier sees every area separately.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from rspretrain.nn.backbones import Backbone
from rspretrain.nn.classifiers.base import Classifier, ClassifierSettings
from rspretrain.nn.norm import synchronise_norms
from rspretrain.settings import Settings

SENSOR = "s2"  # its groups, in the layout of BigEarthNet, are the inputs
BANDS_10M = ("B04", "B03", "B02", "B08")
BANDS_20M = ("B05", "B06", "B07", "B8A", "B11", "B12")
BANDS_60M = ("B01", "B09")
AREA_PX = {"s2_10m": 30, "s2_20m": 15, "s2_60m": 5}
KERNELS = {"s2_10m": (5, 5, 3, 3), "s2_20m": (3, 3, 3, 3), "s2_60m": (2, 2, 2, 2)}
NUM_POOLED = {"s2_10m": 2, "s2_20m": 1, "s2_60m": 0}  # number of first layers with pooling
PAPER_FILTERS = (32, 64, 128, 64)
RELEASED_FILTERS = {"s2_10m": (32, 32, 64), "s2_20m": (32, 32, 64), "s2_60m": (32, 32, 32)}
WIDTH = 128  # width of branches, of psi, and of the LSTM in each direction

Filters = Literal["paper", "released"]


class GridSettings(Settings):
    """Input of Sentinel-2 in its three pixel grids, and the convolutions."""

    filters: Filters = Field(
        default="paper", description="Numbers of convolution filters: those of the paper, or those of the released CNN."
    )
    bands_20m: tuple[str, ...] = Field(
        default=BANDS_20M,
        min_length=1,
        description="Bands of the 20 m grid. The paper lists only the first four of the default.",
    )
    areas: int = Field(
        default=4,
        ge=1,
        description="Local areas per side, each of 300 m (30, 15 and 5 pixels of the three grids). The number"
        " of areas is the square.",
    )

    def bands(self) -> dict[str, tuple[str, ...]]:
        """Input name -> bands."""
        return {"s2_10m": BANDS_10M, "s2_20m": self.bands_20m, "s2_60m": BANDS_60M}

    def px(self) -> dict[str, int]:
        """Input name -> side of its images in pixels."""
        return {name: self.areas * px for name, px in AREA_PX.items()}


class KBranchSettings(ClassifierSettings, GridSettings):
    """K-Branch CNN, LSTM and attention."""

    name: str = Field(default="k_branch", description="K-Branch CNN on the three pixel grids of Sentinel-2.")
    attention: Literal["multi", "none"] = Field(
        default="multi", description="multi: multi-attention over the areas; none: each area separately."
    )
    hops: int | None = Field(
        default=None, ge=1, description="Number of attention scores per area (T). null: one per class."
    )
    attention_width: int = Field(default=128, ge=1, description="Width of the attention layer (rows of W1).")
    softmax_over: Literal["areas", "hops"] = Field(
        default="areas", description="Dimension over which an attention map sums to 1."
    )
    dropout: float = Field(default=0.5, ge=0.0, lt=1.0, description="Dropout rate before the classifier.")

    def own_inputs(self) -> dict[str, tuple[str, ...]]:
        """See ClassifierSettings."""
        return self.bands()


@final
class KBranch(Classifier):
    """Logits [B K] from the groups s2_10m [B 4 120 120], s2_20m [B 6 60 60] and s2_60m [B 2 20 20]. See Classifier.

    Sizes are for areas = 4. Nothing is pretrained, so `backbones` is empty.
    """

    Settings = KBranchSettings

    def __init__(
        self,
        settings: KBranchSettings,
        backbones: Sequence[Backbone],
        num_classes: int,
        bands: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`backbones` is empty, and `bands` are those of the settings."""
        super().__init__(settings.bands(), settings.px(), num_classes)
        self.areas = settings.areas
        self.branches = nn.ModuleDict({name: _branch(name, bands, settings) for name, bands in self.bands.items()})
        self.fusion = nn.Sequential(*_dense(len(self.branches) * WIDTH, 0.25))
        self.lstm = nn.LSTM(WIDTH, WIDTH, bidirectional=True, batch_first=True)
        self.attention: MultiAttention | None = None
        hops = settings.areas**2
        if settings.attention == "multi":
            hops = settings.hops or num_classes
            self.attention = MultiAttention(2 * WIDTH, settings.attention_width, hops, settings.softmax_over)
        self.head = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(2 * WIDTH * hops, num_classes))
        xavier_(self)
        synchronise_norms(self)

    def classify(self, images: dict[str, Tensor]) -> Tensor:
        """See Classifier."""
        omega = self.relate_areas(self.describe_areas(images))
        mixed = torch.relu(self._attend(omega) @ omega)  # [B T 256]
        logits: Tensor = self.head(mixed.flatten(1))
        return logits

    @torch.no_grad()
    def attention_maps(self, images: dict[str, Tensor]) -> Tensor:
        """Attention [B T R] of each hop to each area, areas in row-major order; the identity without attention."""
        omega = self.relate_areas(self.describe_areas(self.fill_missing(images)))
        return self._attend(omega)

    def describe_areas(self, images: dict[str, Tensor]) -> Tensor:
        """Area descriptors psi [B R 128] from all inputs."""
        num = len(next(iter(images.values())))
        parts = [self.branches[name](cut_areas(x, self.areas).flatten(0, 1)) for name, x in images.items()]
        psi: Tensor = self.fusion(torch.cat(parts, dim=1))
        return psi.view(num, self.areas**2, WIDTH)

    def relate_areas(self, psi: Tensor) -> Tensor:
        """LSTM outputs phi [B R 256], Omega transposed, from psi [B R 128]."""
        omega: Tensor = self.lstm(psi)[0]
        return omega

    def _attend(self, omega: Tensor) -> Tensor:
        """Attention A [B T R] from phi [B R 256]."""
        if self.attention is None:
            eye = torch.eye(omega.shape[1], dtype=omega.dtype, device=omega.device)
            return eye.expand(len(omega), -1, -1)
        maps: Tensor = self.attention(omega)
        return maps


@final
class MultiAttention(nn.Module):
    """T attention scores per area, A [B T R] from phi [B R D]: softmax(W2 tanh(W1 Omega)), without biases (eq. 3)."""

    def __init__(self, width: int, hidden: int, hops: int, softmax_over: Literal["areas", "hops"]) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden, bias=False)
        self.second = nn.Linear(hidden, hops, bias=False)
        self.dim = 1 if softmax_over == "areas" else 2

    def forward(self, omega: Tensor) -> Tensor:
        """See the class."""
        scores: Tensor = self.second(torch.tanh(self.first(omega)))  # [B R T]
        return scores.softmax(dim=self.dim).transpose(1, 2)


def cut_areas(images: Tensor, areas: int) -> Tensor:
    """Cut [B C P P] into [B R C p p]: areas x areas squares of p = P / areas pixels, in row-major order."""
    num, bands, side, _ = images.shape
    cut = images.reshape(num, bands, areas, side // areas, areas, side // areas)  # [B C rows p columns p]
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def convolutions(channels: int, name: str, filters: Filters) -> tuple[nn.Sequential, int]:
    """The convolutions of an input's branch, [B C P P] to [B F p p], and F.

    Each layer: Conv with padding "same", BatchNorm, ReLU, 2 x 2 max pooling (first layers only), dropout 0.25.
    """
    sizes = PAPER_FILTERS if filters == "paper" else RELEASED_FILTERS[name]
    layers: list[nn.Module] = []
    for level, (width, kernel) in enumerate(zip(sizes, KERNELS[name], strict=False)):
        # Equals padding="same", also in TensorFlow: 0 before and 1 after for an even kernel. torch's own "same" warns.
        before, after = (kernel - 1) // 2, kernel // 2
        layers += [nn.ZeroPad2d((before, after, before, after)), nn.Conv2d(channels, width, kernel)]
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if level < NUM_POOLED[name] else []
        layers.append(nn.Dropout(0.25))
        channels = width
    return nn.Sequential(*layers), channels


def _branch(name: str, bands: tuple[str, ...], settings: GridSettings) -> nn.Sequential:
    """The branch of one grid: an area [B C p p] to a descriptor [B 128]."""
    convs, width = convolutions(len(bands), name, settings.filters)
    side = AREA_PX[name] >> NUM_POOLED[name]
    return nn.Sequential(convs, nn.Flatten(), *_dense(width * side * side, 0.5))


def _dense(width: int, dropout: float) -> list[nn.Module]:
    return [nn.Linear(width, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Dropout(dropout)]


@torch.no_grad()
def xavier_(module: nn.Module) -> None:
    """Initialise weights by Glorot (uniform) and biases by zero; in LSTMs each gate separately."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LSTM):
            for name, parameter in part.named_parameters():
                for gate in parameter.chunk(4):
                    nn.init.zeros_(gate) if name.startswith("bias") else nn.init.xavier_uniform_(gate)
