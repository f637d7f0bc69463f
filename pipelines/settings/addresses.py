"""Names in addresses of Kaggle, as people copy them from a browser."""

import re

SITE = re.compile(r"^(?:https?://)?(?:www\.)?kaggle\.com/", re.IGNORECASE)
PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
OTHER_PAGES = ("competitions", "c", "code", "models", "organizations", "discussions", "work")
MODEL_PARTS = 5


def competition_name(text: str) -> str:
    """Return the competition's name in an address of Kaggle, or a likely name for any other text; may be empty."""
    parts = _parts(text)
    if SITE.match(text.strip()):
        if parts[:1] in (["competitions"], ["c"]):
            return next((part for part in parts[1:2] if PART.fullmatch(part)), "")
        return ""
    return re.sub("[^A-Za-z0-9_-]+", "-", text.strip().strip("/")).strip("-")


def dataset_name(text: str) -> str:
    """Return `owner/name` of a dataset given so or as its address; empty for anything else."""
    parts = _parts(text)
    if SITE.match(text.strip()):
        if parts[:1] == ["datasets"]:
            parts = parts[1:3]  # further parts are pages of it
        elif parts[:1] in ([other] for other in OTHER_PAGES):
            return ""
    return "/".join(parts) if len(parts) == 2 and all(map(PART.fullmatch, parts)) else ""


def model_name(text: str) -> str:
    """Return `owner/model/framework/variation/version` of a model given so or as its address; else empty."""
    parts = _parts(text)
    if SITE.match(text.strip()):
        if parts[:1] != ["models"]:
            return ""
        parts = [part for part in parts[1:] if part.lower() not in ("frameworks", "variations", "versions")]
    whole = len(parts) == MODEL_PARTS and all(map(PART.fullmatch, parts)) and parts[-1].isdigit()
    return "/".join(parts) if whole else ""


def _parts(text: str) -> list[str]:
    path = re.split("[?#]", SITE.sub("", text.strip()))[0]
    return [part for part in path.split("/") if part]
