"""Networks: timm backbones for any bands, heads, EMA teachers, synchronised norms, classifiers, export and load."""
