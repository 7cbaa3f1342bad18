"""Try a model: a conversation with it, in its chat template, or continuations of a text if it has none."""

from dataclasses import dataclass, field
from pathlib import Path

from tiltlm.core import ConfigError
from tiltlm.core.example import token_ids
from tiltlm.data import Encoder
from tiltlm.logprobs.selfcheck import Choice
from tiltlm.models import ModelSettings, Policy, load_policy
from tiltlm.recipes.prepare import encoder_of
from tiltlm.sampling import SamplingSettings, sample

STOCK = Choice("padded", None, 0.0, 0.0)
"""Samples are drawn with the model's own attention, so no layout has to be found equal to it."""


@dataclass
class Conversation:
    """A conversation with one model. The same inputs and seed give the same answers."""

    name: str
    """The model's folder or name, as it was given."""
    policy: Policy
    encoder: Encoder
    temperature: float
    max_new_tokens: int
    seed: int
    turns: list[dict[str, str]] = field(default_factory=list)
    """Earlier turns. Always empty for a model without a chat template: each prompt is a text of its own."""
    num_answers: int = 0

    @property
    def has_template(self) -> bool:
        """True if the model has a chat template."""
        return self.encoder.template is not None

    def answer(self, text: str) -> str:
        """Return the model's answer to a text, and remember both.

        Raises:
            ConfigError: The conversation fills the model's context window.
        """
        template, ends = self.encoder.template, set(self.policy.end_token_ids)
        turns = [*self.turns, {"role": "user", "content": text}]
        if template is None:
            prompt = self.encoder.prompt_ids(text)
        else:
            (ids,) = self.encoder.tokens([template.render(turns, open_response=True)])
            prompt = token_ids(ids)
            ends.add(self.encoder.turn_end_token_id)
        window = self.encoder.window
        room = self.max_new_tokens if window is None else min(self.max_new_tokens, window - len(prompt))
        if room < 1:
            raise ConfigError(
                f"the conversation has {len(prompt)} tokens, and the model's window is {window}; start again (/reset)",
                code="too_long",
                key="prompt",
            )
        settings = SamplingSettings(room, temperature=self.temperature)
        seed = self.seed + self.num_answers
        ((drawn,),) = sample(self.policy.module, [prompt], 1, settings, seed=seed, end_token_ids=sorted(ends))
        answer = self.encoder.plain_text(drawn.token_ids)
        self.num_answers += 1
        if template is not None:
            self.turns = [*turns, {"role": "assistant", "content": answer}]
        return answer

    def reset(self) -> None:
        """Forget the earlier turns."""
        self.turns = []


def open_conversation(
    model: str | Path, *, temperature: float = 0.7, max_new_tokens: int = 256, seed: int = 0
) -> Conversation:
    """Load a model for a conversation.

    Args:
        model: A model folder, the folder of an adapter, or a name on the Hugging Face Hub.
        temperature: Divisor of the logits; 0 takes the most probable token.
        max_new_tokens: An answer that has not ended is cut after this many tokens.
        seed: Seed of the answers.

    Raises:
        ModelError: The model cannot be used.
        ConfigError: A number is out of range.
    """
    SamplingSettings(max_new_tokens, temperature=temperature)  # raises before the model is loaded
    policy = load_policy(ModelSettings(str(model)), choice=STOCK, key="MODEL")
    return Conversation(str(model), policy, encoder_of(policy), temperature, max_new_tokens, seed)
