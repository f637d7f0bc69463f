"""The pretrained weights of a run: found before its training, and recorded after it. Imports no torch until needed."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.settings.layout import RunLayout
from pipelines.settings.records import read_record, with_weights_of
from pipelines.settings.schema import Settings
from pipelines.system.watch import Watch

if TYPE_CHECKING:
    from pipelines.models.weights import Origin


def with_weights(settings: Settings, run: RunLayout, folder: Path, watch: Watch) -> "tuple[Settings, list[Origin]]":
    """Return the settings that the weights of `run` complete, and these weights; none for a run that is trained.

    folder: the folder of weights.  Raises `UserError` as `find_origins` and `resolve` do.
    """
    if not settings.model.weights:
        return settings, []
    if run.trained.exists():
        return with_weights_of(settings, read_record(run).settings), []
    from pipelines.models.weights import find_origins, resolve

    found = find_origins(settings.model, folder, watch=watch)
    return resolve(settings, found), found
