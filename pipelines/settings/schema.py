"""All settings of a competition, one section for each table of its TOML."""

import dataclasses
from typing import Any

from pipelines.settings.data_sections import CompetitionSettings, DataSettings, SplitSettings
from pipelines.settings.running_sections import AuditSettings, HardwareSettings, KaggleSettings, PredictSettings
from pipelines.settings.section import Section
from pipelines.settings.training_sections import (
    AugmentSettings,
    FeaturesSettings,
    FinetuneSettings,
    InputSettings,
    ModelSettings,
    TrainSettings,
)

DEFAULT_RECIPE = "default"


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of one competition and recipe."""

    name: str
    recipe: str = DEFAULT_RECIPE
    competition: CompetitionSettings = CompetitionSettings()
    data: DataSettings = DataSettings()
    split: SplitSettings = SplitSettings()
    input: InputSettings = InputSettings()
    augment: AugmentSettings = AugmentSettings()
    model: ModelSettings = ModelSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    features: FeaturesSettings = FeaturesSettings()
    train: TrainSettings = TrainSettings()
    predict: PredictSettings = PredictSettings()
    hardware: HardwareSettings = HardwareSettings()
    kaggle: KaggleSettings = KaggleSettings()
    audit: AuditSettings = AuditSettings()

    @property
    def tuning(self) -> FinetuneSettings:
        """The [finetune] that applies: its defaults if the weights are random."""
        return self.finetune if self.model.pretrained else FinetuneSettings()

    @property
    def trains_on_cache(self) -> bool:
        """Whether only the head is trained, on cached features."""
        return self.tuning.frozen_stages == -1 and self.features.cached

    @property
    def averages_views(self) -> bool:
        """Whether the head gets the mean of the features of an image's views, instead of each view's."""
        return self.trains_on_cache and self.train.optimizer == "lbfgs"


SECTIONS: dict[str, type] = {
    field.name: type(field.default) for field in dataclasses.fields(Settings) if isinstance(field.default, Section)
}
SHARED_BY_RECIPES = ("competition", "data", "split")
OUTSIDE_A_RUN = ("predict", "hardware", "kaggle", "audit")
KEYS_OUTSIDE_A_RUN = {"train": ("tensorboard",)}  # of the other sections


def plain_input(channels: int) -> dict[str, Any]:
    """Return the values of [input] where no pretrained weights give them."""
    return {"size": 32, "mean": (0.5,) * channels, "std": (0.25,) * channels}


PLAIN_INPUT = plain_input(3)
