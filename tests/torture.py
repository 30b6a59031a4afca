"""How long a test may try: `make torture` sets RSPRETRAIN_TORTURE."""

import os


def times(usual: int, long: int) -> int:
    """The number of random cases: the usual one, or the long form's."""
    return long if os.environ.get("RSPRETRAIN_TORTURE") else usual
