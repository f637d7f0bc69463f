"""The members of a fold set: one training for each fold and seed."""

from dataclasses import dataclass, replace

from pipelines.settings.schema import Settings


@dataclass(frozen=True)
class Member:
    """One training of a set, in the folder `name` of the set: it validates `fold`, with `seed` as train.seed."""

    name: str
    fold: int
    seed: int

    def settings(self, settings: Settings) -> Settings:
        """Return the `settings` of the set as this member has them."""
        return replace(settings, train=replace(settings.train, fold=self.fold, seed=self.seed))


def plan(settings: Settings, seeds: int) -> list[Member]:
    """Return the members of a set with so many `seeds`, which count from train.seed.

    All folds of one seed come before the next seed. Without folds, all members validate the same rows.
    """
    members = []
    for number in range(seeds):
        seed = settings.train.seed + number
        if not settings.split.folds:
            members.append(Member(f"seed-{number}", 0, seed))
        for fold in range(settings.split.folds):
            members.append(Member(f"fold-{fold}" + (f"-seed-{number}" if number else ""), fold, seed))
    return members
