"""Seeds for everything random, derived from the one seed in the settings."""

import hashlib


def derive_seed(seed: int, *names: str | int) -> int:
    """Return the seed for the purpose `names`, below 2**63: unrelated for other names, the same on every machine."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
