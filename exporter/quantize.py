"""int8 by static quantisation: ONNX Runtime's own tool, calibrated on real crops, the neck left in fp32.

Unsigned activations and signed per-channel weights, because signed activations are slow on x86 (three to four times). The
batch-norm neck magnifies what is left of a quantisation error, so everything after the pooling stays fp32.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from exporter.graph import INPUT

NUM_CALIBRATION_CROPS = 256
CALIBRATION_BATCH = 8
QUANTIZED_OPS = ["Conv", "Add", "MaxPool"]


class _CropReader(CalibrationDataReader):  # type: ignore[misc] # ONNX Runtime ships no types
    """Feeds calibration crops in batches, once."""

    def __init__(self, crops: np.ndarray) -> None:
        starts = range(0, len(crops), CALIBRATION_BATCH)
        self._feeds: Iterator[dict[str, np.ndarray]] = ({INPUT: crops[start : start + CALIBRATION_BATCH]} for start in starts)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def write_int8(fp32_path: Path, int8_path: Path, crops: np.ndarray) -> None:
    """Quantises an exported fp32 file on uint8 crops [N, H, W, 3]."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(fp32_path), str(prepared), skip_symbolic_shape=True)  # folds batch norms into convolutions
        quantize_static(
            str(prepared),
            str(int8_path),
            _CropReader(crops),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=QUANTIZED_OPS,
            calibrate_method=CalibrationMethod.MinMax,
        )
