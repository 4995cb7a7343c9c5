"""Embeddings of earlier prompts, bounded by their bytes."""

import torch

from services.diffusion.text_cache import TextCache

CPU = torch.device("cpu")


def embeddings(value: float) -> dict[str, torch.Tensor]:
    """1000 bytes."""
    return {"prompt_embeds": torch.full((10, 25), value)}


class Maker:
    """Counts how often it had to make embeddings."""

    def __init__(self) -> None:
        self.made: list[float] = []

    def get(self, cache: TextCache, value: float) -> torch.Tensor:
        def make() -> dict[str, torch.Tensor]:
            self.made.append(value)
            return embeddings(value)

        return cache.get(("key", value), make, CPU)["prompt_embeds"]


def test_what_was_made_is_kept_and_given_again_as_it_was():
    cache, maker = TextCache(10_000), Maker()
    first = maker.get(cache, 1.0)
    assert torch.equal(maker.get(cache, 1.0), first)
    assert torch.equal(maker.get(cache, 2.0), torch.full((10, 25), 2.0))
    assert maker.made == [1.0, 2.0]


def test_the_least_recently_used_goes_first_and_bytes_stay_within_the_bound():
    cache, maker = TextCache(2_500), Maker()
    for value in (1.0, 2.0, 1.0, 3.0, 1.0):
        maker.get(cache, value)
        assert cache.num_bytes <= 2_500
    assert maker.made == [1.0, 2.0, 3.0]
    maker.get(cache, 2.0)
    assert maker.made == [1.0, 2.0, 3.0, 2.0]


def test_nothing_is_kept_where_there_is_no_room():
    cache, maker = TextCache(0), Maker()
    maker.get(cache, 1.0)
    maker.get(cache, 1.0)
    assert maker.made == [1.0, 1.0]
    assert cache.num_bytes == 0


def test_a_slice_of_something_larger_counts_for_itself():
    cache = TextCache(10_000)
    cache.get("key", lambda: {"prompt_embeds": torch.zeros(100, 1000)[:1]}, CPU)
    assert cache.num_bytes == 4_000
