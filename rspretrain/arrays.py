"""Numpy array types that several packages share."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Rows = Ints  # row numbers in the index of a shard set
