"""`HellaswagMixin`: the kit as a method of a test class."""

from __future__ import annotations

from pathlib import Path

from scripted_kit_client.unittest_case import KitMixin

from scripted_kit_hellaswag.kit import HELLASWAG, HellaswagOptions
from scripted_kit_hellaswag.scoring import Normalize


class HellaswagMixin(KitMixin):
    """Beside `CustomTestCase` on a class with `base_url`; every attribute can be overridden."""

    hellaswag_data: Path | None = None
    hellaswag_floor: float | None = None
    hellaswag_limit: int | None = None
    hellaswag_n_shot: int = 0
    hellaswag_normalize: Normalize = Normalize.TOKEN
    hellaswag_concurrency: int = 4

    def test_accuracy_floor(self) -> None:
        """The model chooses the right ending often enough."""
        options = HellaswagOptions(
            data=self.hellaswag_data,
            floor=self.hellaswag_floor,
            limit=self.hellaswag_limit,
            n_shot=self.hellaswag_n_shot,
            normalize=self.hellaswag_normalize,
            concurrency=self.hellaswag_concurrency,
        )
        self.run_kit(HELLASWAG, options)
