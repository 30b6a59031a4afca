"""What a masked autoencoder needs beside an encoder: places as sines, and a small ViT that paints hidden patches."""

from typing import final

import torch
from torch import Tensor, nn

from rspretrain.nn.backbones import transformer_blocks
from rspretrain.nn.tokens import MaskedViT


@final
class PatchDecoder(nn.Module):
    """Class token [B D] and n patch tokens [B n D] at places `kept` [B n] to outputs [B N O] for all N patches.

    He et al. 2022, section 3, and its code: one mask token, of which only the place differs, stands for every patch
    that is not there. Places are fixed sines; the class token has none.
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
        first, seen = self.embed(torch.cat([cls[:, None], patches], dim=1)).tensor_split([1], dim=1)
        hidden = self.mask_token.to(seen.dtype).expand(len(seen), *self.positions.shape)
        every = hidden.scatter(1, kept[:, :, None].expand_as(seen), seen) + self.positions
        tokens = self.norm(self.blocks(torch.cat([first.to(every.dtype), every], dim=1)))
        out: Tensor = self.head(tokens[:, 1:])
        return out


def sine_positions(width: int, grid: tuple[int, int]) -> Tensor:
    """[N width] float32: sines and cosines of the column, then of the row, N = rows x columns row by row (MAE's code).

    ValueError unless width is a multiple of 4.
    """
    if width % 4:
        raise ValueError(
            f"Places as sines need a sine and a cosine for rows and for columns: got a width of {width}, expected a "
            f"multiple of 4. Set the width to {width - width % 4} or {width - width % 4 + 4}."
        )
    rates = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [places.reshape(-1, 1) * rates for places in (columns, rows)]
    return torch.cat([part for one in angles for part in (one.sin(), one.cos())], dim=1).float()


@torch.no_grad()
def fix_positions_(vit: MaskedViT) -> None:
    """The ViT's own places become fixed sines, without gradient; prefix tokens have none."""
    embedding: nn.Parameter = vit.backbone.model.pos_embed  # type: ignore[assignment]
    sines = sine_positions(embedding.shape[2], vit.grid)
    embedding.zero_()
    embedding[0, -len(sines) :] = sines
    embedding.requires_grad_(False)


def patchify(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B C H W] to its patches [B N p*q*C], row by row, of p x q pixels and the C bands of every pixel together."""
    rows, columns = grid
    height, width = x.shape[2] // rows, x.shape[3] // columns
    parts = x.unflatten(2, (rows, height)).unflatten(4, (columns, width))  # [B C rows p columns q]
    patches: Tensor = parts.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return patches
