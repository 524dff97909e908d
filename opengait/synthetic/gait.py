"""A subject's manner of walking: traits drawn from (seed, subject), varied a little by walk and by stride.

Values spread evenly over their range, so that subjects do not crowd in the middle. A network that sees an unordered set
of frames meets a trait through the poses it causes, which is why most traits are amplitudes and postures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opengait.synthetic.keys import generator


@dataclass(frozen=True)
class Trait:
    """One number of a gait: `low` to `high` between subjects; standard deviations between walks and strides of one."""

    low: float
    high: float
    walk: float
    stride: float


def _degrees(low: float, high: float, walk: float, stride: float) -> Trait:
    return Trait(*(float(np.radians(value)) for value in (low, high, walk, stride)))


TRAITS: dict[str, Trait] = {
    "cadence": Trait(0.78, 1.06, 0.015, 0.011),  # strides a second
    "stride": Trait(0.65, 1.3, 0.022, 0.022),  # hip swing, 1 = normal
    "hip_bias": _degrees(-4, 6, 0.6, 0.45),  # legs carried ahead of or behind the trunk
    "knee_bend": _degrees(2, 20, 0.75, 0.6),  # flexion in stance
    "knee_lift": Trait(0.72, 1.35, 0.022, 0.022),  # flexion in swing, 1 = normal
    "thigh_lift": _degrees(-3, 15, 0.6, 0.6),  # extra hip flexion in swing
    "toe_lift": _degrees(6, 30, 1.1, 1.1),  # foot pitch at heel strike
    "push_off": Trait(0.6, 1.15, 0.03, 0.03),  # foot pitch at toe off, 1 = normal
    "foot_angle": _degrees(-8, 28, 1.1, 0.75),  # toes turned out
    "step_width": Trait(0.02, 0.2, 0.006, 0.006),  # metres between the feet
    "leg_swing_out": _degrees(0, 7, 0.45, 0.38),  # swing leg carried around
    "knee_valgus": _degrees(-4, 4, 0.3, 0.22),
    "bounce": Trait(0, 0.035, 0.0023, 0.0023),  # metres, on top of what the legs cause
    "sway": Trait(0.008, 0.065, 0.003, 0.003),  # metres, pelvis towards the standing leg
    "pelvis_turn": _degrees(2, 12, 0.6, 0.6),
    "pelvis_drop": _degrees(1, 8, 0.38, 0.38),
    "lean": _degrees(-6, 13, 0.68, 0.45),  # trunk forward
    "stoop": _degrees(0, 20, 0.9, 0.45),  # upper back bent over the lower
    "trunk_roll": _degrees(-2, 8, 0.45, 0.45),  # trunk towards the standing leg
    "trunk_tilt": _degrees(-3.5, 3.5, 0.38, 0.22),  # one shoulder low, for good
    "shoulder_turn": _degrees(1, 14, 0.6, 0.6),
    "shoulder_raise": Trait(-0.025, 0.03, 0.003, 0.0015),
    "shoulder_round": Trait(-0.02, 0.05, 0.003, 0.0015),
    "neck_forward": _degrees(5, 42, 1.5, 0.75),
    "head_pitch": _degrees(-14, 28, 1.5, 0.9),  # face down
    "head_nod": _degrees(0, 5, 0.3, 0.3),
    "arm_swing": _degrees(4, 46, 1.5, 1.5),
    "arm_bias": _degrees(-12, 10, 0.9, 0.6),  # arms carried ahead of or behind the trunk
    "arm_asymmetry": Trait(-0.55, 0.55, 0.038, 0.03),  # left swing against right
    "arm_out": _degrees(3, 26, 0.9, 0.6),
    "arm_in": _degrees(-4, 30, 1.5, 0.75),  # forearms turned across the body
    "elbow_bend": _degrees(4, 72, 1.9, 1.1),
    "elbow_swing": _degrees(0, 34, 1.5, 1.5),
    "step_asymmetry": Trait(-0.035, 0.035, 0.003, 0.003),  # fraction of a stride
    "stride_asymmetry": Trait(-0.1, 0.1, 0.011, 0.0075),
    "arm_lag": Trait(-0.04, 0.07, 0.006, 0.0045),  # fraction of a stride
}


def mean_gait() -> dict[str, float]:
    """The population mean: everybody's gait where gait is not to tell subjects apart."""
    return {name: (trait.low + trait.high) / 2 for name, trait in TRAITS.items()}


def draw_gait(seed: int, subject: int) -> dict[str, float]:
    """The traits of a subject, a function of (seed, subject) alone."""
    rng = generator(seed, "gait", subject)
    gait = {name: float(rng.uniform(trait.low, trait.high)) for name, trait in TRAITS.items()}
    # Long strides come with more arm swing, in everybody.
    pull = (gait["stride"] - 1.0) / 0.3
    gait["arm_swing"] = float(np.clip(gait["arm_swing"] * (1 + 0.2 * pull), TRAITS["arm_swing"].low, np.radians(52)))
    return gait


def vary_gait(gait: dict[str, float], phase: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One walk: the subject's traits at each frame.

    Args:
        gait: the subject's means.
        phase: strides walked so far, [s], starting at zero or later.
        rng: the walk's own generator.

    Returns:
        trait name -> values [s]; they pass smoothly from one stride to the next.
    """
    knots = np.arange(int(np.ceil(phase.max())) + 2)
    traits = {}
    for name, trait in TRAITS.items():
        strides = gait[name] + rng.normal(0, trait.walk) + rng.normal(0, trait.stride, len(knots))
        traits[name] = np.interp(phase, knots, strides)
    return traits
