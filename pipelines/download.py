"""Download a competition's data: from Kaggle, or from a local archive or folder.

Reads   the competition's TOML; Kaggle, or ARCHIVE: a zip, 7z or tar, whole or in pieces, or a folder, whose files
        are hard-linked and whose links are followed.
Writes  data/<c>/<slug>.zip, if it came from Kaggle, and its .sha256; it gets this name only after its check.
        data/<c>/raw/: the files with Kaggle's names, with archives inside archives unpacked, and without folders around
        everything unless the settings name them; .download.json records the source.
        data/<c>/held_back/labels.csv: the test labels, for the bundled digits only.
"""

import sys
from collections.abc import Sequence

from pipelines import command
from pipelines.system.shell import user_path
from pipelines.tools.obtaining import obtain


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command.parser(__doc__, "download")
    parser.add_argument("--archive", type=user_path, help="an archive or a folder with the data, instead of Kaggle")
    words = parser.parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    is_new = not layout.raw.exists()
    obtain(settings, layout, words, "download")
    if is_new:
        print(f"Next: {words.repeat('split')}")


if __name__ == "__main__":
    sys.exit(command.run(main))
