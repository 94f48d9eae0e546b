"""Images by the name of their source: for calibration, for evaluation, and how they become tensors."""

from mrecg.data.loading import EvaluationBatches, name_some
from mrecg.data.preprocessing import Crops, Preprocessing
from mrecg.data.sources import (
    DEMO_FOLDER,
    calibration_images,
    evaluation_batches,
    evaluation_images,
    own_preprocessing,
    recorded_name,
    remembered_source,
)
from mrecg.preparation.calibration import CalibrationImages

__all__ = [
    "DEMO_FOLDER",
    "CalibrationImages",
    "Crops",
    "EvaluationBatches",
    "Preprocessing",
    "calibration_images",
    "evaluation_batches",
    "evaluation_images",
    "name_some",
    "own_preprocessing",
    "recorded_name",
    "remembered_source",
]
