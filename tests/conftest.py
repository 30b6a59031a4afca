"""What must be said before anything is imported."""

import os

# gcsfs asks for a bucket's kind over gRPC, a minute long, of a server that speaks HTTP only; it reads this at import.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
