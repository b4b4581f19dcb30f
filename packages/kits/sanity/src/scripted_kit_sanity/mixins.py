"""The probes as methods of test classes, a mixin for each group of them."""

from __future__ import annotations

from scripted_kit_client.unittest_case import KitMixin

from scripted_kit_sanity.kit import kit_of, probe_named
from scripted_kit_sanity.options import SanityOptions


class _ProbeMixin(KitMixin):
    """`sanity_options` can be overridden; SGLang's own attribute is kept."""

    served_model_name: str | None = None
    sanity_options: SanityOptions = SanityOptions()

    def probe(self, name: str) -> None:
        """Run one probe and fail by it."""
        self.run_kit(kit_of(probe_named(name)), self.sanity_options)


class BasicAPIContractMixin(_ProbeMixin):
    """Routes that have to be there, and what they have to answer."""

    def test_health(self) -> None:
        """See `contract.health`."""
        self.probe("health")

    def test_health_generate(self) -> None:
        """See `contract.health_generate`."""
        self.probe("health_generate")

    def test_get_server_info(self) -> None:
        """See `contract.server_info`."""
        self.probe("server_info")

    def test_get_model_info(self) -> None:
        """See `contract.model_info`."""
        self.probe("model_info")

    def test_openai_models(self) -> None:
        """See `contract.models`."""
        self.probe("models")

    def test_openai_completion(self) -> None:
        """See `contract.completion`."""
        self.probe("completion")

    def test_openai_chat_completion(self) -> None:
        """See `contract.chat_completion`."""
        self.probe("chat_completion")

    def test_bad_request(self) -> None:
        """See `contract.bad_request`."""
        self.probe("bad_request")


class BasicDecodeCorrectnessMixin(_ProbeMixin):
    """Output that is right, repeatable, and what a prefill would say."""

    def test_known_answers(self) -> None:
        """See `decode.answers`."""
        self.probe("answers")

    def test_recall(self) -> None:
        """See `decode.recall`."""
        self.probe("recall")

    def test_determinism_temp_zero(self) -> None:
        """See `decode.determinism`."""
        self.probe("determinism")

    def test_max_token_one(self) -> None:
        """See `decode.one_token`."""
        self.probe("one_token")

    def test_stop_string(self) -> None:
        """See `decode.stop_string`."""
        self.probe("stop_string")

    def test_ascii_ratio(self) -> None:
        """See `decode.printable`."""
        self.probe("printable")

    def test_no_repetition_blowup(self) -> None:
        """See `decode.repetition`."""
        self.probe("repetition")

    def test_decode_is_prefill(self) -> None:
        """See `decode.decode_is_prefill`."""
        self.probe("decode_is_prefill")


class BasicSchedulerStressMixin(_ProbeMixin):
    """Streams, many requests with one prefix, a long prompt, a pause."""

    def test_streaming_response(self) -> None:
        """See `stress.streaming`."""
        self.probe("streaming")

    def test_streaming_completions(self) -> None:
        """See `stress.streaming_completions`."""
        self.probe("streaming_completions")

    def test_concurrent_requests(self) -> None:
        """See `stress.shared_prefix`."""
        self.probe("shared_prefix")

    def test_long_prompt(self) -> None:
        """See `stress.long_prompt`."""
        self.probe("long_prompt")

    def test_pause_resume_in_place(self) -> None:
        """See `stress.pause_in_place`."""
        self.probe("pause_in_place")


class SpecAcceptLengthMixin(_ProbeMixin):
    """Draft tokens are accepted."""

    def test_accept_length(self) -> None:
        """See `pairs.accept_length`."""
        self.probe("accept_length")


class PDLogprobParityMixin(_ProbeMixin):
    """A prefill/decode pair says what a plain server says; `sanity_options` has its `parity_url`."""

    def test_logprob_parity(self) -> None:
        """See `pairs.logprob_parity`."""
        self.probe("logprob_parity")
