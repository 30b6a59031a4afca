"""Networks: timm backbones for any bands, heads, synchronised norms, export and load."""
