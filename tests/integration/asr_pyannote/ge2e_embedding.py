"""GE2E in the shape of a pyannote model, so that a pipeline can be put together without a hub."""

import numpy as np
import torch
from pyannote.audio.core.model import Model
from pyannote.audio.core.task import Problem, Resolution, Specifications

from services.asr.ge2e import DIMENSIONS, WINDOW_SAMPLES, Ge2e

SPECIFICATIONS = Specifications(
    problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0, min_duration=0.4, classes=None
)


class Ge2eEmbedding(Model):
    """Mean GE2E embedding of the frames that the mask lets through."""

    dimension = DIMENSIONS

    def __init__(self, sample_rate=16_000, num_channels=1, task=None):
        super().__init__(sample_rate=sample_rate, num_channels=num_channels, task=task)
        self.net = Ge2e()

    def forward(self, waveforms, weights=None):
        if weights is None:
            weights = torch.ones(len(waveforms), waveforms.shape[-1])
        masks = torch.nn.functional.interpolate(weights[:, None].float(), size=waveforms.shape[-1])[:, 0] > 0.5
        return torch.stack([self._embed(wave[0][mask]) for wave, mask in zip(waveforms, masks, strict=True)])

    def _embed(self, audio):
        if audio.numel() < 6_400:
            return torch.full((DIMENSIONS,), torch.nan)
        samples = audio.numpy()
        starts = range(0, max(1, samples.size - WINDOW_SAMPLES + 1), WINDOW_SAMPLES // 2)
        windows = np.stack([np.resize(samples[start : start + WINDOW_SAMPLES], WINDOW_SAMPLES) for start in starts])
        mean = self.net.embed(windows).mean(0)
        return torch.from_numpy(mean / np.linalg.norm(mean))
