"""What is good about a picture or a clip, as a number."""

from frolic.rewards.base import Reward, per_frame
from frolic.rewards.registry import RewardSpec, make_reward, names

__all__ = ["Reward", "RewardSpec", "make_reward", "names", "per_frame"]
