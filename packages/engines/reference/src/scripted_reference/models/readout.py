"""From logits to what a batch results in: the next tokens, and log probabilities for who asked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from scripted_reference.memory import IntArray
from scripted_reference.models.base import BatchResult, ReqLogprobs, TokenLogprobs
from scripted_reference.models.lanes import BatchLayout
from scripted_reference.models.sampling import sample
from scripted_reference.models.temperature import is_greedy
from scripted_reference.schedule_batch import ScheduleBatch

FloatArray = npt.NDArray[np.float32]


class Readout:
    """Collects the result of one batch, a few lanes at a time, so that few logits live at once."""

    def __init__(self, batch: ScheduleBatch, layout: BatchLayout, *, engine_seed: int) -> None:
        self._batch = batch
        self._layout = layout
        self._engine_seed = engine_seed
        self._next_tokens: IntArray = np.zeros(len(batch.reqs), dtype=np.int64)
        self._output: dict[int, TokenLogprobs] = {}
        self._prompt: dict[int, TokenLogprobs] = {}
        self._asking = {i for i, req in enumerate(batch.reqs) if req.return_logprob}
        self._sampling = {
            i for i, req in enumerate(batch.reqs) if not is_greedy(req.sampling_params.temperature)
        }
        self._output_of_lane = {lane: i for i, lane in enumerate(layout.output_lanes.tolist())}
        # Which prompt position each lane predicts, and of which request.
        self._prompt_of_lane = {
            lane: (i, position)
            for i, prompt in layout.prompts.items()
            for position, lane in enumerate(prompt.lanes, start=prompt.first)
            if lane is not None
        }

    def add(self, lanes: IntArray, logits: torch.Tensor) -> None:
        """Take the logits of some lanes, of which `[LANES, vocab]` has those in its first rows."""
        best = logits.argmax(dim=-1).cpu().numpy()
        raw = logits.cpu().numpy() if self._sampling else None
        logprobs: FloatArray | None = None
        if self._asking:
            logprobs = torch.log_softmax(logits, dim=-1).cpu().numpy()
        for row, lane in enumerate(lanes.tolist()):
            predicted = self._prompt_of_lane.get(lane)
            if predicted is not None:
                assert logprobs is not None, "only who asks has a prompt to predict"
                index, position = predicted
                token = self._batch.reqs[index].origin_input_ids[position]
                self._prompt[lane] = self._logprobs(logprobs[row], token, index)
            output = self._output_of_lane.get(lane)
            if output is not None:
                token = int(best[row])
                if raw is not None and output in self._sampling:
                    token = self._sample(raw[row], output)
                self._next_tokens[output] = token
                if logprobs is not None and output in self._asking:
                    self._output[output] = self._logprobs(logprobs[row], token, output)

    def result(self) -> BatchResult:
        """Return the result, once all lanes are in."""
        if not self._asking:
            return BatchResult(self._next_tokens)
        return BatchResult(
            self._next_tokens,
            tuple(
                ReqLogprobs(self._output[i], self._prompt_logprobs(i))
                if i in self._asking
                else None
                for i in range(len(self._next_tokens))
            ),
        )

    def _prompt_logprobs(self, index: int) -> tuple[TokenLogprobs, ...]:
        prompt = self._layout.prompts.get(index)
        if prompt is None:
            return ()
        first_token = self._batch.reqs[index].origin_input_ids[0]
        return tuple(
            TokenLogprobs(first_token, None) if lane is None else self._prompt[lane]
            for lane in prompt.lanes
        )

    def _logprobs(self, row: FloatArray, token: int, index: int) -> TokenLogprobs:
        return token_logprobs(row, token, top=self._batch.reqs[index].top_logprobs_num)

    def _sample(self, logits: FloatArray, index: int) -> int:
        params = self._batch.reqs[index].sampling_params
        assert params.temperature is not None, "greedy otherwise"
        return sample(
            logits,
            temperature=params.temperature,
            seed=self._engine_seed if params.seed is None else params.seed,
            position=int(self._batch.seq_lens[index]),
        )


def token_logprobs(row: FloatArray, token_id: int, *, top: int) -> TokenLogprobs:
    """Return those of one position for `float32[vocab]` of log probabilities.

    They are the model's own, before temperature. Equally likely tokens come in order of their ids.
    """
    likeliest: tuple[tuple[int, float], ...] = ()
    if top > 0:
        order = np.argsort(-row, kind="stable")[:top].tolist()
        likeliest = tuple((token, float(row[token])) for token in order)
    return TokenLogprobs(token_id, float(row[token_id]), likeliest)
