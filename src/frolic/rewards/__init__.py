"""What is good about a picture or a clip, as a number."""

from frolic.rewards.base import Reward, per_frame
from frolic.rewards.combine import Combined
from frolic.rewards.registry import RewardSpec, make_reward, names
from frolic.rewards.spec import Wanted, make_rewards, parse_rewards

__all__ = [
    "Combined",
    "Reward",
    "RewardSpec",
    "Wanted",
    "make_reward",
    "make_rewards",
    "names",
    "parse_rewards",
    "per_frame",
]
