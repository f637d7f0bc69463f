"""Refuse by name what is no competition of images, or holds images in a form that is not read."""

import re
from collections.abc import Sequence

from pipelines.analysis.recognise.facts import RawFolder
from pipelines.analysis.recognise.listing import Table
from pipelines.system.errors import UserError

# Extensions of files without which there are no images, what they are, and what to do.
FORMATS = {
    (".dcm", ".dicom"): "medical images (DICOM), which are not supported yet. Convert each to a PNG of the same name",
    (".tfrec", ".tfrecord", ".tfrecords"): "TFRecords, which are not read. Unpack their images into files",
    (".parquet",): "Parquet tables, which are not read. Write their images as PNG files",
    (".bson",): "BSON, which is not read. Write its images as JPEG files",
    (".nii", ".gz", ".mha", ".nrrd"): "volumes, which are not supported yet. Write their slices as PNG files",
    (".mp4", ".avi", ".mov", ".mkv"): "videos, which are not supported",
    (".wav", ".mp3", ".flac", ".ogg", ".m4a"): "sounds, which are not supported. Write spectrograms as PNG files",
    (".npz", ".h5", ".hdf5", ".mat", ".pkl", ".pickle"): "arrays of several images. Write each as .npy or PNG",
    (".svs", ".tiff"): "slides of microscopes. Write them as PNG files of some thousand pixels",
}
CELLS = re.compile(r"\s*\[")


def refuse_raw(folder: RawFolder, tables: Sequence[Table]) -> None:
    """Raise `UserError` if the raw folder holds no images that can be read."""
    if folder.images or any(table.pixels for table in tables):
        return
    for endings, what in FORMATS.items():
        if count := sum(folder.others[ending] for ending in endings):
            raise UserError(
                f"{folder.raw} holds no images, but {count:,} files of {endings[0]}: {what}, and try again."
            )
    if any(name.lower().endswith(".json") for name in folder.lists):
        raise UserError(
            f"{folder.raw} holds no image files. Images as lists of numbers in JSON are not recognised. "
            "Write the TOML yourself (docs/competitions.md): data.labels and data.test_table name the JSON files, "
            'data.label_column and data.pixel_columns their keys, as "band_*"; input.channels says how many lists.'
        )
    kinds = ", ".join(f"{count:,} {kind or 'without extension'}" for kind, count in folder.others.most_common(5))
    raise UserError(f"{folder.raw} holds no images: {len(folder.tables)} tables, {kinds or 'no other files'}.")
