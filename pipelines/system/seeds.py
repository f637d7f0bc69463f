"""Seeds for everything random, derived by name from the one seed in the settings."""

import hashlib


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a seed for the purpose called `names`, a whole number below 2**63.

    Seeds of different names are unrelated, however near their numbers are, and the same on every machine.
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
