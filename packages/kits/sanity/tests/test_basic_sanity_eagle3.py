"""SGLang's basic sanity test under speculation, composed of the kits, with the trained draft model."""

from __future__ import annotations

import unittest

from scripted_kit_client import (
    DEFAULT_DRAFT_MODEL_EAGLE3,
    DEFAULT_TARGET_MODEL_EAGLE3,
    DEFAULT_TIMEOUT_FOR_SERVER_LAUNCH,
    CustomTestCase,
    free_url,
    popen_launch_server,
)
from scripted_kit_hellaswag import HellaswagMixin
from scripted_kit_occupancy import FwdOccupancyMixin
from scripted_kit_sanity import (
    BasicAPIContractMixin,
    BasicDecodeCorrectnessMixin,
    BasicSchedulerStressMixin,
    SpecAcceptLengthMixin,
)
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=30, stage="reference", runner_config="cpu")


class TestBasicSanityEagle3(
    BasicAPIContractMixin,
    BasicDecodeCorrectnessMixin,
    BasicSchedulerStressMixin,
    SpecAcceptLengthMixin,
    FwdOccupancyMixin,
    HellaswagMixin,
    CustomTestCase,
):
    served_model_name = DEFAULT_TARGET_MODEL_EAGLE3
    # Measured 97.6; a stall of 1 ms in every iteration gives 91.
    fwd_occupancy_threshold = 80.0
    fwd_occupancy_scrape_interval = 0.05
    fwd_occupancy_max_new_tokens = 400
    fwd_occupancy_prompt = "today tina is in the tent ."
    hellaswag_limit = 12

    @classmethod
    def setUpClass(cls):
        cls.base_url = free_url()
        cls.process = popen_launch_server(
            DEFAULT_TARGET_MODEL_EAGLE3,
            cls.base_url,
            timeout=DEFAULT_TIMEOUT_FOR_SERVER_LAUNCH,
            other_args=[
                *("--dtype", "float16", "--attention-backend", "triton"),
                *("--speculative-algorithm", "EAGLE3"),
                *("--speculative-draft-model-path", DEFAULT_DRAFT_MODEL_EAGLE3),
                *("--speculative-num-steps", "3"),
                *("--speculative-eagle-topk", "1"),
                *("--speculative-num-draft-tokens", "4"),
                *("--cuda-graph-max-bs", "4", "--mem-fraction-static", "0.7"),
                "--enable-metrics",
            ],
            env={"SGLANG_ENABLE_METRICS_DEVICE_TIMER": "1"},
            backend="reference",
        )


if __name__ == "__main__":
    unittest.main()
