"""Rounds of a trusted coordinator. It draws the participants, clips each change again, and adds the noise once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from consortia.coordinator.checkpoint import Checkpoint
from consortia.messages.envelope import message_key
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import State
from consortia.trust.trusted_coordinator import flat_change, moved, plan_of
from privacy.central import draw, noisy_mean
from privacy.noise_context import NoiseContext
from privacy.randomness import fresh_generator
from strategies.base import Strategy, Update

#: Sends the model to the named participants; returns their validated replies.
Ask = Callable[[Mapping[str, State]], Mapping[str, State]]


class CentralRounds:
    """The rounds of one run."""

    def __init__(self, scenario: Scenario, run_id: str) -> None:
        self.scenario = scenario
        self.run_id = run_id
        self.plan = plan_of(scenario.contract)
        self._names = sorted(participant.name for participant in scenario.roster)

    def round(
        self, strategy: Strategy, state: Checkpoint, ask: Ask
    ) -> tuple[dict[str, State], dict[str, State], list[str]]:
        """Run a round. Return the next groups and memory, and who answered.

        The strategy receives the noisy mean as one update, so everything that it computes is post-processing.
        """
        ((group, current),) = state.groups.items()
        noise = self._context(state, current)
        places = draw(len(self._names), self.plan, fresh_generator(noise.to("who is asked"))).tolist()
        drawn = [self._names[place] for place in places]
        accepted = ask(dict.fromkeys(drawn, current)) if drawn else {}
        # Sorted by name, so the order of arrival does not change the result.
        changes = [flat_change(current, accepted[name]) for name in drawn if name in accepted]
        coordinates = sum(tensor.numel() for tensor in current.values())
        mean = moved(current, noisy_mean(changes, coordinates, self.plan, fresh_generator(noise.to("sum"))))
        after, memory = strategy.aggregate(current, [Update("*", mean, 1.0)], state.memory.get(group, {}))
        return {group: after}, {group: memory}, list(accepted)

    def _context(self, state: Checkpoint, current: State) -> NoiseContext:
        """Bind the noise to run, round and model. A coordinator has no ledger, and its attempts have no numbers."""
        message = message_key(current, self.run_id, str(state.round), self.scenario.contract.sha256())
        return NoiseContext(purpose="central", message=message, attempt=0, ledger="")
