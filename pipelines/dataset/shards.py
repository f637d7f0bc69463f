"""Batches of the photos in shards; see `shard_index`.  The order, the crops and the parts are those of other photos."""

import torch

from pipelines.dataset.channels import Picture
from pipelines.dataset.images import UnreadableImage, decode, settled_warnings
from pipelines.dataset.loading import Loading
from pipelines.dataset.photos import LoadedBatches, Photos, cut_of, workers_for
from pipelines.dataset.shard_index import Shards
from pipelines.system.errors import UserError


class ShardBatches(LoadedBatches):
    """Batches of the images of `shards`: the same whatever the number of processes and loader workers."""

    def __init__(self, shards: Shards, loading: Loading, workers: int | None = None) -> None:
        """workers: processes that read and decode; None: by the settings."""
        settings = loading.settings
        if settings.input.source != "photos":
            raise UserError(f'input.source is "{settings.input.source}"; images in shards are read as "photos".')
        if workers is None:
            workers = workers_for(settings, loading.device, loading.group)
        labels = torch.from_numpy(shards.labels)
        super().__init__(shards.ids, labels, loading, ShardPhotos(shards, loading), workers)


class ShardPhotos(Photos):
    """Reads photos from shards, decodes and cuts them, in the worker processes."""

    def __init__(self, shards: Shards, loading: Loading) -> None:
        self.shards, self.cut = shards, cut_of(loading)
        self.white, self.channels = loading.settings.data.white, loading.settings.input.channels

    def photo(self, position: int) -> Picture:
        content = self.shards.read(position)
        try:
            with settled_warnings():
                return decode("", "", self.white, self.channels, content)
        except UnreadableImage as error:
            name = self.shards.name(position)
            raise UserError(f"{name} cannot be decoded: {error.problem}. Write this shard again.") from None
