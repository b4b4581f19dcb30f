"""`FwdOccupancyMixin`: the kit as a method of a test class, under SGLang's names."""

from __future__ import annotations

from pathlib import Path

from scripted_kit_client.unittest_case import KitMixin

from scripted_kit_occupancy.kit import DEFAULT_PROMPT, OCCUPANCY, OccupancyOptions
from scripted_kit_occupancy.samples import Across


class FwdOccupancyMixin(KitMixin):
    """Beside `CustomTestCase` on a class with `base_url`; every attribute can be overridden."""

    fwd_occupancy_threshold: float = 95.0
    fwd_occupancy_min_samples: int = 5
    fwd_occupancy_scrape_interval: float = 0.5
    fwd_occupancy_scrape_timeout: float = 10.0
    fwd_occupancy_acc_length_threshold: float = 1.8
    fwd_occupancy_warmup_max_new_tokens: int = 64
    fwd_occupancy_max_new_tokens: int = 2048
    fwd_occupancy_prompt: str = DEFAULT_PROMPT
    fwd_occupancy_across: Across = Across.MAX
    fwd_occupancy_request_timeout: float = 600.0
    fwd_occupancy_baseline: Path | None = None
    """Recorded medians: then the floor is this runner's less the margin, and no threshold counts."""
    fwd_occupancy_margin: float = 2.0
    fwd_occupancy_runner: str = "default"

    def test_fwd_occupancy(self) -> None:
        """The median is above the threshold; so is the accept length, where the server speculates."""
        options = OccupancyOptions(
            threshold=self.fwd_occupancy_threshold,
            min_samples=self.fwd_occupancy_min_samples,
            scrape_interval_s=self.fwd_occupancy_scrape_interval,
            scrape_timeout_s=self.fwd_occupancy_scrape_timeout,
            acc_length_threshold=self.fwd_occupancy_acc_length_threshold,
            warmup_max_new_tokens=self.fwd_occupancy_warmup_max_new_tokens,
            max_new_tokens=self.fwd_occupancy_max_new_tokens,
            prompt=self.fwd_occupancy_prompt,
            across=self.fwd_occupancy_across,
            request_timeout_s=self.fwd_occupancy_request_timeout,
            baseline=self.fwd_occupancy_baseline,
            margin=self.fwd_occupancy_margin,
            runner=self.fwd_occupancy_runner,
        )
        self.run_kit(OCCUPANCY, options)
