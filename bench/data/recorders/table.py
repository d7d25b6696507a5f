"""The recorders there are: ours, and those that other distributions register as "unet_vs_dit.recorders". Imports no engine."""

from bench.data.recorders.contract import Recorder
from bench.data.recorders.pybullet import PYBULLET
from bench.data.recorders.vizdoom import VIZDOOM
from bench.data.registry import Registry

RECORDERS: Registry[Recorder] = Registry("recorder", "unet_vs_dit.recorders", (VIZDOOM, PYBULLET))
