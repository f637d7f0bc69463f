"""The sections of `gpu_check` that measure speed: training, prediction, extraction and decoding."""

import statistics
import time
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_visit import Skipped, Visit, rounded
from benchmarks.measuring import WARM_UP, Stopwatch, now

if TYPE_CHECKING:
    from pipelines.dataset.image_set import ImageSet

RECIPES = ("default", "best")
FULL_SIZE = "augment.sizes=[]"
AIRBENCH_BATCH = "train.batch_size=2000"
COMPILED = "hardware.compile_training=true"
PROFILED = 20  # batches
ENOUGH = 2 * WARM_UP  # batches
VIEWS = 2  # of a photo: itself and its mirror image
PHOTO_BATCH = 64
ALONE = 512  # photos that one process decodes


def training(visit: Visit) -> dict[str, Any]:
    """Train in the shape of CIFAR-10 at full image size: images per second, memory, share of the matrix rate."""
    from benchmarks.extraction import multiplication, rate
    from benchmarks.training_speed import AIRBENCH, operations
    from pipelines.models.building import build_network

    images = visit.images()
    settings = {recipe: visit.settings(recipe, FULL_SIZE) for recipe in RECIPES}
    settings["airbench"] = visit.settings("default", *AIRBENCH, AIRBENCH_BATCH)
    product = multiplication(visit.hardware, visit.sizes.side)
    speeds: dict[str, list[float]] = {name: [] for name in settings}
    matrix: list[float] = []
    memory: dict[str, float | None] = {}
    for _ in range(visit.sizes.rounds):
        matrix.append(rate(product, visit.sizes.seconds))
        for name, chosen in settings.items():
            speed, memory[name], _ = _train(visit, images, chosen)
            speeds[name].append(speed)
    found: dict[str, Any] = {
        "matrix_tflops": rounded(statistics.median(matrix) / 1e12),
        "rounds": visit.sizes.rounds,
    }
    for name, chosen in settings.items():
        counted = operations(build_network(chosen, images.classes, []), chosen.input.size)
        shares = [one * counted / whole for one, whole in zip(speeds[name], matrix, strict=True)]
        found[name] = {
            "batch_size": chosen.train.batch_size,
            "images_per_second": [rounded(each) for each in speeds[name]],
            "share_of_matrix_rate": rounded(statistics.median(shares), 3),
            "gpu_memory_mib": memory[name],
        }
        print(f"  {name}: {statistics.median(speeds[name]):,.0f} images/s", flush=True)
    return found


def compiling(visit: Visit) -> dict[str, Any]:
    """Train as in `training`, once each without and with torch.compile, in turn."""
    if visit.toy:
        raise Skipped("compiling takes too long at toy sizes; tests/core/test_job.py compiles")
    images, found = visit.images(), {}
    for name in RECIPES:
        plain, _, _ = _train(visit, images, visit.settings(name, FULL_SIZE))
        compiled, _, seconds = _train(visit, images, visit.settings(name, FULL_SIZE, COMPILED))
        found[name] = {
            "images_per_second": [rounded(plain), rounded(compiled)],
            "times_as_fast": rounded(compiled / plain, 3),
            "seconds_with_compiling": rounded(seconds, 3),
        }
        print(f"  {name}: {compiled / plain:.2f} times as fast, after {seconds:.0f} s in all", flush=True)
    return found


def _train(visit: Visit, images: "ImageSet", settings: Any) -> tuple[float, float | None, float]:
    """Return images per second, MiB of the GPU's memory at most (None on a processor), and all seconds."""
    import torch

    from benchmarks.textbook_loop import our_speed

    batches = min(visit.sizes.batches, len(images) // settings.train.batch_size - WARM_UP)
    equal = images.select(images.rows.head(len(images) // settings.train.batch_size * settings.train.batch_size))
    if visit.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(visit.hardware.device)
    started = time.perf_counter()
    speed = our_speed(settings, equal, visit.hardware, max(batches, 1))
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated(visit.hardware.device) / 2**20 if visit.on_gpu else None
    return speed, None if peak is None else round(peak), seconds


def parts(visit: Visit) -> dict[str, Any]:
    """Divide an epoch of the default recipe into its parts, each measured to its end."""
    from benchmarks import profile
    from pipelines.models.building import build_network

    settings = visit.settings("default")
    images = visit.images()
    job = visit.job(settings, images, "parts")
    measured = profile.measure(job, build_network(settings, images.classes, []), min(PROFILED, visit.sizes.batches))
    print("  " + measured.table().replace("\n", "\n  "), flush=True)
    total = sum(measured.parts.values())
    return {"shares": {part: rounded(seconds / total, 3) for part, seconds in measured.parts.items()}}


def predicting(visit: Visit) -> dict[str, Any]:
    """Predict images, one view each: in batches of 128, and in those that are chosen for this device."""
    from pipelines.core import engine
    from pipelines.core.job import to_device
    from pipelines.core.tasks import make_task
    from pipelines.dataset.batches import open_source
    from pipelines.dataset.loading import PREDICTED, prediction_batch
    from pipelines.models.building import build_network

    images, found = visit.images(), {}
    for name in RECIPES:
        chosen = visit.settings(name)
        network = to_device(build_network(chosen, images.classes, []), visit.hardware)
        task = make_task(chosen, images.classes, {})
        for most in (PREDICTED, prediction_batch(chosen, visit.hardware.device)):
            size = min(most, len(images) // ENOUGH)
            settings = visit.settings(name, f"predict.batch_size={size}")
            source = open_source(settings, images, visit.hardware.device)
            stopwatch = Stopwatch(visit.hardware.device)
            results = engine.infer(network, source, task, visit.hardware)
            for _ in stopwatch.watch(results, lambda result: len(result[1])):
                pass
            found[f"{name}, batches of {size}"] = {"images_per_second": rounded(stopwatch.images_per_second)}
    return found


def extraction(visit: Visit) -> dict[str, Any]:
    """Compute features by networks with random weights: images per second, and share of the matrix rate."""
    from benchmarks.extraction import measure_rates, settings_for

    found: dict[str, Any] = {}
    for name in visit.sizes.networks:
        settings = settings_for(name, *visit.sizes.extraction, f"hardware.device={visit.hardware.device}")
        sizes = visit.sizes
        rates = measure_rates(settings, sizes.rounds, not visit.toy, sizes.seconds, sizes.side)
        found[name] = {"pixels": rates.size}
        for way in (way for way in rates.by_way if way != "matrix"):
            found[name][way] = {
                "images_per_second": rounded(statistics.median(rates.by_way[way])),
                "share_of_matrix_rate": rounded(statistics.median(rates.shares(way)), 3),
            }
    return found


def decoding(visit: Visit) -> dict[str, Any]:
    """Decode and crop photos: images per second of one core and of all, and how many cores a network would need."""
    from pipelines.dataset.photos import workers_for

    count, width, height = visit.sizes.photos
    images = _photos(visit, count, width, height)
    workers = workers_for(visit.settings("default"), visit.hardware.device)
    alone = _decoded_per_second(visit, images.select(images.rows.head(ALONE)), 0)
    together = _decoded_per_second(visit, images, workers)
    found: dict[str, Any] = {
        "photo": f"JPEG, {width} x {height} pixels",
        "images_per_second_of_one_core": rounded(alone),
        "processes": workers,
        "images_per_second_of_all": rounded(together),
    }
    for name, ways in visit.found.get("extraction", {}).get("result", {}).items():
        speed = ways["folded"]["images_per_second"]
        found[f"cores for {name}, {VIEWS} views a photo"] = rounded(speed / VIEWS / alone, 3)
    return found


def _photos(visit: Visit, count: int, width: int, height: int) -> "ImageSet":
    """Return `count` smooth JPEG photos with some noise, of a few different files."""
    import numpy as np
    import pandas as pd
    from PIL import Image

    from pipelines.dataset.image_set import ImageSet

    raw, random, different = visit.folder / "photos", np.random.default_rng(0), min(count, 32)
    raw.mkdir(exist_ok=True)
    for number in range(different):
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height))
        noisy = np.asarray(coarse, dtype=np.int16) + random.integers(-12, 13, (height, width, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(raw / f"{number}.jpg", quality=90)
    table = pd.DataFrame(
        {
            "id": [str(number) for number in range(count)],
            "path": [f"{number % different}.jpg" for number in range(count)],
            "label": ["0" if number % 2 else "1" for number in range(count)],
            "split": "train",
        }
    )
    return ImageSet(table, table, raw, visit.folder / "photos-cache", ["0", "1"])


def _decoded_per_second(visit: Visit, images: "ImageSet", workers: int) -> float:
    """Return the photos per second that `workers` decode for training at the size of the first network.

    The second epoch counts: the first one starts the processes.
    """
    from benchmarks.extraction import settings_for
    from pipelines.dataset.loading import Loading
    from pipelines.dataset.photos import PhotoBatches

    options = ("input.source=photos", "augment.crop_scale=[0.35, 1.0]", f"train.batch_size={PHOTO_BATCH}")
    settings = settings_for(visit.sizes.networks[0], *visit.sizes.extraction, *options)
    loading = Loading(settings, len(images.classes), visit.hardware.device, training=True)
    source = PhotoBatches(images, loading, workers)
    for epoch in (1, 2):
        started = now(visit.hardware.device)
        for _ in source.batches(epoch):
            pass
    return len(images) / (now(visit.hardware.device) - started)
