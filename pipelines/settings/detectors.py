"""The detectors that model.name can begin with, as fasterrcnn_fpn/resnet50: what is known of each without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DetectorFacts:
    """What a detector of torchvision needs and gives.

    levels: the number of its maps.  sizes: of anchors in each level by default; 0: it has none.  losses: the names that
    torchvision gives to the parts of its loss.  background: whether class 0 is the background.
    """

    levels: int
    sizes: int
    losses: tuple[str, ...]
    background: bool = True

    @property
    def anchor_sizes(self) -> int:
        """The number of sizes of anchors by default."""
        return self.levels * self.sizes


_TWO_STAGES = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")
_ONE_STAGE = ("classification", "bbox_regression")
DETECTORS = {
    "fasterrcnn": DetectorFacts(1, 5, _TWO_STAGES),
    "fasterrcnn_fpn": DetectorFacts(4, 1, _TWO_STAGES),
    "retinanet_fpn": DetectorFacts(4, 3, _ONE_STAGE, background=False),
    "fcos_fpn": DetectorFacts(4, 0, (*_ONE_STAGE, "bbox_ctrness"), background=False),
    "ssd300": DetectorFacts(7, 1, _ONE_STAGE[::-1]),  # one size more than maps: of the next map
    "ssdlite320": DetectorFacts(7, 1, _ONE_STAGE[::-1]),
}


def parts_of(name: str) -> tuple[str, str]:
    """Return the detector and the backbone of a model.name; the detector is empty in that of another network."""
    detector, slash, backbone = name.partition("/")
    return (detector, backbone) if slash and detector != "timm" else ("", name)
