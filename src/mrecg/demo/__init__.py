"""The paper's claim on one's own machine, on packaged weights and images."""

from mrecg.demo.comparison import (
    DEMO_NETWORK,
    DemoRow,
    GroupEnd,
    JoiningEffect,
    demo_network,
    joining_effect,
    run_demo,
)

__all__ = [
    "DEMO_NETWORK",
    "DemoRow",
    "GroupEnd",
    "JoiningEffect",
    "demo_network",
    "joining_effect",
    "run_demo",
]
