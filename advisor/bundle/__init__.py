"""The deliverable: a directory that starts a server and says how it was proven."""

from advisor.bundle.manifest import verify
from advisor.bundle.write import write_bundle

__all__ = ["verify", "write_bundle"]
