"""Does a blend score on new rows as its nested estimate says?  Tried on rows of real runs that are held back.

In each repeat, half of the labelled rows that all runs have predicted choose the weights, as `make blend` does, and
give the nested estimate.  The other half is held back: it scores the blend that was chosen.

    python -m benchmarks.blend digits --runs one two three
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines import command
from pipelines.core.blending import Pool, blend, make_pool
from pipelines.core.selection import gain_of
from pipelines.core.stored import Stored, read_oof
from pipelines.dataset.image_set import ImageSet, read_images
from pipelines.settings.schema import Settings
from pipelines.system.watch import unwatched


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command.parser(__doc__, "benchmarks.blend")
    parser.add_argument("--runs", nargs="+", required=True, help="predicted runs")
    parser.add_argument("--repeats", type=int, default=20)
    words = parser.parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    images = read_images(settings, layout, words.repeat("split"))
    stored = [read_oof(layout.run(name).oof, images.table, images.classes, images.task) for name in words.runs]
    rows = np.array([trial(settings, images, stored, seed) for seed in range(words.repeats)])
    estimated, held, equal, over, error, weighted = rows.T
    gaps = estimated - held
    print(
        command.table(
            ("of the blend", "mean over repeats", "standard deviation"),
            [
                (
                    f"nested estimate of {settings.competition.metric}",
                    f"{estimated.mean():.4f}",
                    f"{estimated.std():.4f}",
                ),
                ("score of the rows held back", f"{held.mean():.4f}", f"{held.std():.4f}"),
                ("estimate minus score", f"{gaps.mean():+.4f}", f"{gaps.std():.4f}"),
                ("gain over equal weights, held back", f"{equal.mean():+.4f}", f"{equal.std():.4f}"),
                ("gain over the best member, held back", f"{over.mean():+.4f}", f"{over.std():.4f}"),
            ],
        )
    )
    within = float((np.abs(gaps) <= gaps.std()).mean())
    print(f"Weighted in {int(weighted.sum())} of {len(rows)} repeats; {within:.0%} of the gaps within their deviation.")
    print(f"Mean standard error of the gain over the best member: {error.mean():.4f}.")


def trial(settings: Settings, images: ImageSet, stored: Sequence[Stored], seed: int) -> tuple[float, ...]:
    """Return the nested estimate, the score of the rows held back, the gains there over equal weights and over the best
    member with the standard error of the latter, and whether selected weights were taken."""
    pool = make_pool(settings, images, stored)
    order = np.random.default_rng(seed).permutation(len(pool.images))
    chosen, kept = (make_pool(settings, images, _some(pool, np.sort(rows))) for rows in np.array_split(order, 2))
    with tempfile.TemporaryDirectory() as folder:
        found = blend(chosen, Path(folder), unwatched)
    candidates = kept.candidates
    mixed = candidates.mix(found.weights)
    higher = 1 if kept.judge.higher_is_better else -1
    best = int(np.argmax([higher * score for score in found.own]))
    over = gain_of(candidates, mixed, candidates.members[best])
    equal = gain_of(candidates, mixed, candidates.mix(candidates.equal)).value
    scored = candidates.score(mixed)
    return found.found.score, scored, equal, over.value, over.error, float(found.weighted)


def _some(pool: Pool, rows: np.ndarray) -> list[Stored]:
    return [Stored(each.ids[rows], each.folds[rows], each.predictions[rows]) for each in pool.stored]


if __name__ == "__main__":
    sys.exit(command.run(main))
