"""MAE decoder: a small ViT that predicts masked patches, sine-cosine position embeddings, and patchify."""

from typing import final

import torch
from torch import Tensor, nn

from rspretrain.nn.backbones import transformer_blocks
from rspretrain.nn.tokens import MaskedViT


@final
class PatchDecoder(nn.Module):
    """Predict all N patches, [B N O], from class token [B D] and visible tokens [B n D] at positions `kept` [B n].

    He et al. 2022, section 3, and its code. One learned mask token, plus the position embedding, replaces every masked
    patch. Position embeddings are fixed sines and cosines; the class token has none.
    """

    positions: Tensor

    def __init__(self, dim: int, grid: tuple[int, int], outputs: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.register_buffer("positions", sine_positions(width, grid), persistent=False)  # [N width]
        self.embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.blocks = transformer_blocks(width, depth, heads)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, outputs)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, cls: Tensor, patches: Tensor, kept: Tensor) -> Tensor:
        """See the class."""
        first, visible = self.embed(torch.cat([cls[:, None], patches], dim=1)).tensor_split([1], dim=1)
        masked = self.mask_token.to(visible.dtype).expand(len(visible), *self.positions.shape)
        every = masked.scatter(1, kept[:, :, None].expand_as(visible), visible) + self.positions
        tokens = self.norm(self.blocks(torch.cat([first.to(every.dtype), every], dim=1)))
        out: Tensor = self.head(tokens[:, 1:])
        return out


def sine_positions(width: int, grid: tuple[int, int]) -> Tensor:
    """Position embeddings [N width] float32: sines and cosines of the column, then of the row, as in MAE's code.

    N = rows x columns, in row-major order. ValueError unless width is a multiple of 4.
    """
    if width % 4:
        raise ValueError(
            f"Sine-cosine position embeddings: got a width of {width}, expected a multiple of 4. "
            f"Set the width to {width - width % 4} or {width - width % 4 + 4}."
        )
    rates = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [positions.reshape(-1, 1) * rates for positions in (columns, rows)]
    return torch.cat([part for one in angles for part in (one.sin(), one.cos())], dim=1).float()


@torch.no_grad()
def fix_positions_(vit: MaskedViT) -> None:
    """Replace the ViT's position embeddings by fixed sines and cosines, without gradient; zero for prefix tokens."""
    embedding: nn.Parameter = vit.backbone.model.pos_embed  # type: ignore[assignment]
    sines = sine_positions(embedding.shape[2], vit.grid)
    embedding.zero_()
    embedding[0, -len(sines) :] = sines
    embedding.requires_grad_(False)


def patchify(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patches [B N p*q*C] of x [B C H W], in row-major order, of p x q pixels; the C bands of a pixel are adjacent."""
    rows, columns = grid
    height, width = x.shape[2] // rows, x.shape[3] // columns
    parts = x.unflatten(2, (rows, height)).unflatten(4, (columns, width))  # [B C rows p columns q]
    patches: Tensor = parts.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return patches
