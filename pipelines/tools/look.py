"""Look at the data before training: one picture and one table.

Reads   data/<c>/split.csv and a sample of its images; what audit and other stages have found: data/<c>/audit/,
        damaged.csv.
Writes  data/<c>/look.png: images of each part with their targets, images per class, sizes, brightness, and training
        and validation images as the network sees them;
        data/<c>/look.csv: the facts of each part of the split;
        data/<c>/look.json: all of it as text and numbers; it is written last.

Nothing is downloaded, decoded for later, or changed. The picture of the network's view depends on the recipe.
"""

import sys
from collections.abc import Sequence

from pipelines import command
from pipelines.dataset.split_record import check_unchanged
from pipelines.settings.layout import split_sha256
from pipelines.system.errors import printable


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "tools.look").parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    from pipelines.analysis.look.looking import look
    from pipelines.dataset.image_set import open_images
    from pipelines.dataset.splits import read_split_csv

    table = read_split_csv(layout.split_csv, words.repeat("split"))
    words.require_raw(layout)
    if note := check_unchanged(layout, settings, words.repeat("split")):
        print(note)
    images = open_images(settings, layout, table, words.repeat("split"))
    sha256, audit = split_sha256(layout.split_csv), words.repeat("audit")
    seen = look(settings, images, layout, sha256, audit, command.progress)
    print(command.table(seen.headings, seen.rows))
    for line in seen.lines:
        print(printable(line))
    print(f"Picture: {layout.look_picture.relative_to(layout.root)}")
    print(f"Table: {layout.look_table.relative_to(layout.root)}")


if __name__ == "__main__":
    sys.exit(command.run(main))
