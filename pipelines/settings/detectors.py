"""The detectors that model.name can begin with, as fasterrcnn_fpn/resnet50: what is known of each without torch."""

from dataclasses import dataclass

from pipelines.system.errors import UserError, did_you_mean


@dataclass(frozen=True)
class DetectorFacts:
    """What a detector of torchvision needs and gives.

    levels: among which the sizes of anchors are divided.  sizes: of anchors in each level by default; 0: it has none.
    losses: the names that torchvision gives to the parts of its loss.  background: whether class 0 is the background.
    pairs: whether a map takes the sizes of its level and of the next one, of which the last has no map.
    """

    levels: int
    sizes: int
    losses: tuple[str, ...]
    background: bool = True
    pairs: bool = False


_TWO_STAGES = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")
_ONE_STAGE = ("classification", "bbox_regression")
DETECTORS = {
    "fasterrcnn": DetectorFacts(1, 5, _TWO_STAGES),
    "fasterrcnn_fpn": DetectorFacts(4, 1, _TWO_STAGES),
    "retinanet_fpn": DetectorFacts(4, 3, _ONE_STAGE, background=False),
    "fcos_fpn": DetectorFacts(4, 0, (*_ONE_STAGE, "bbox_ctrness"), background=False),
    "ssd300": DetectorFacts(7, 1, _ONE_STAGE[::-1], pairs=True),
    "ssdlite320": DetectorFacts(7, 1, _ONE_STAGE[::-1], pairs=True),
}


def parts_of(name: str) -> tuple[str, str]:
    """Return the detector and the backbone of a model.name; the detector is empty in that of another network."""
    detector, _, backbone = name.partition("/")
    return (detector, backbone) if detector in DETECTORS and backbone else ("", name)


def facts_of(name: str) -> DetectorFacts:
    """Return the facts of the detector in a model.name.  Raises `UserError` if there is none."""
    if detector := parts_of(name)[0]:
        return DETECTORS[detector]
    raise UserError(
        f"model.name is {name!r}, but competition.task is boxes, which takes a detector and its backbone, such as "
        f"fasterrcnn_fpn/mobilenet_v2.{did_you_mean(name.partition('/')[0], DETECTORS)} "
        f"Detectors: {', '.join(DETECTORS)}."
    )
