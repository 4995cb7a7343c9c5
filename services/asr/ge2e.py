"""Speaker embeddings by GE2E, with the weights that Resemblyzer published.

Source: Wan et al., "Generalized End-to-End Loss for Speaker Verification", 2018.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from faster_whisper.feature_extractor import FeatureExtractor
from torch import nn

from narrative.errors import WeightsCorrupt
from services.asr.engine import SAMPLE_RATE_HZ

WINDOW_SAMPLES = round(1.6 * SAMPLE_RATE_HZ)
DIMENSIONS = 256
_MEL_BANDS, _FFT, _HOP, _FRAMES = 40, 400, 160, 160
_TARGET_RMS = 10 ** (-30 / 20)


class Ge2e(nn.Module):
    """Three LSTM layers over 1.6 s of mel frames."""

    filters: torch.Tensor
    window: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_MEL_BANDS, DIMENSIONS, 3, batch_first=True)
        self.linear = nn.Linear(DIMENSIONS, DIMENSIONS)
        filters = FeatureExtractor.get_mel_filters(SAMPLE_RATE_HZ, _FFT, _MEL_BANDS).T
        self.register_buffer("filters", torch.tensor(filters, dtype=torch.float32), persistent=False)
        self.register_buffer("window", torch.hann_window(_FFT), persistent=False)

    @classmethod
    def from_file(cls, path: Path, device: str = "cpu") -> "Ge2e":
        """Reads ``pretrained.pt``.

        Raises:
            WeightsCorrupt: the file holds something else.
        """
        model = cls()
        try:
            # Weights only: nothing in the file is run.
            state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
            model.load_state_dict({name: value for name, value in state.items() if name.startswith(("lstm", "linear"))})
        except Exception as error:
            raise WeightsCorrupt(f"{path} does not hold GE2E weights: {error}") from error
        return model.eval().to(device)

    @torch.inference_mode()
    def embed(self, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Embeds windows of 1.6 s.

        Args:
            windows: float32 (n, 25600), [-1, 1], 16 kHz mono.

        Returns:
            float32 (n, 256) of length 1.
        """
        audio = torch.as_tensor(windows, device=self.window.device)
        # As in training: quiet speech is raised to -30 dBFS, loud speech left alone.
        rms = audio.square().mean(1, keepdim=True).sqrt().clamp_min(1e-8)
        audio = audio * (_TARGET_RMS / rms).clamp_min(1.0)
        spectrum = torch.stft(audio, _FFT, _HOP, window=self.window, pad_mode="constant", return_complex=True)
        mel = (spectrum.abs().square().transpose(1, 2) @ self.filters)[:, :_FRAMES]
        _, (hidden, _) = self.lstm(mel)
        embedding = torch.relu(self.linear(hidden[-1]))
        return (embedding / embedding.norm(dim=1, keepdim=True).clamp_min(1e-8)).cpu().numpy()  # type: ignore[no-any-return]
