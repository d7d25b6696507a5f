"""First-person video of ten scenarios of ViZDoom, a class each, drawn with the levels and pictures of Freedoom. Shows blood.

A player who draws a move and holds it for some frames walks, turns and shoots. A clip begins when he has done so for a while, and
lies within one episode. The weapon does not swing as he walks: how far it has swung is kept from clip to clip.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.recorders.contract import ClipMaker, Recorded, Recorder
from bench.data.seeds import stream_seed
from bench.shapes import Refusal

HEIGHT, WIDTH = 120, 160
TICS_PER_S = 35
TICS = 4  # of the game from one frame to the next
HELD = (2, 6)  # frames that a move is held, from and to
WARM_UP = (4, 16)  # frames before a clip, from and to: where players start is alike, and weapons are still raised
ATTEMPTS = 50  # episodes in which a clip may be found
SCENARIOS = (
    "basic", "deadly_corridor", "defend_the_center", "defend_the_line", "health_gathering",
    "my_way_home", "predict_position", "take_cover", "deathmatch", "freedoom1",
)  # fmt: skip
LEVELS = tuple(f"E1M{number}" for number in range(1, 10))  # of freedoom1, which has no scenario of its own
# What a player does at once. Those of a scenario are those whose buttons it has.
MOVES = (
    ("MOVE_FORWARD",),
    ("MOVE_FORWARD", "TURN_LEFT"),
    ("MOVE_FORWARD", "TURN_RIGHT"),
    ("TURN_LEFT",),
    ("TURN_RIGHT",),
    ("MOVE_LEFT",),
    ("MOVE_RIGHT",),
    ("ATTACK",),
)


@contextlib.contextmanager
def _opened(scenario: str) -> Iterator[ClipMaker]:
    """The engine, a process of its own that runs until the block ends, with one scenario loaded."""
    import vizdoom

    data = Path(vizdoom.__file__).parent
    with tempfile.TemporaryDirectory() as own, contextlib.chdir(own):  # the engine writes where it runs
        game = vizdoom.DoomGame()
        game.load_config(str(Path(vizdoom.scenarios_path) / f"{scenario}.cfg"))
        levels = LEVELS if scenario == "freedoom1" else (game.get_doom_map(),)
        game.set_doom_game_path(str(data / ("freedoom1.wad" if scenario == "freedoom1" else "freedoom2.wad")))
        game.set_doom_config_path(str(Path(own) / "settings.ini"))
        game.set_doom_map(levels[0])
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_mode(vizdoom.Mode.PLAYER)
        game.set_episode_timeout(0)
        game.set_window_visible(False)
        for shown in (game.set_render_hud, game.set_render_messages, game.set_render_screen_flashes):
            shown(False)
        for unread in (game.set_audio_buffer_enabled, game.set_automap_buffer_enabled, game.set_sound_enabled):
            unread(False)
        game.add_game_args("+movebob 0")
        game.set_seed(0)
        game.init()
        try:
            yield lambda seed, num_frames: _clip(game, scenario, levels, seed, num_frames)
        finally:
            game.close()


def _clip(game: Any, scenario: str, levels: tuple[str, ...], seed: int, num_frames: int) -> Recorded:
    """The first episode that lasts as long as a warm-up and a clip."""
    for attempt in range(ATTEMPTS):
        frames = _played(game, levels, stream_seed(seed, "episode", attempt), num_frames)
        if frames is not None:
            return Recorded(frames=frames)
    raise Refusal(f"vizdoom: none of {ATTEMPTS} episodes of {scenario} lasts for {num_frames} frames; ask for fewer --frames")


def _played(game: Any, levels: tuple[str, ...], seed: int, num_frames: int) -> np.ndarray | None:
    """Frames (T, H, W, 3) uint8 of an episode after its warm-up; None where it ends before."""
    rng = np.random.default_rng(seed)
    buttons = [button.name for button in game.get_available_buttons()]
    moves = [[float(name in move) for name in buttons] for move in MOVES if set(move) <= set(buttons)]
    game.set_seed(seed)
    game.set_doom_map(levels[rng.integers(len(levels))])
    game.new_episode()
    frames = np.empty((num_frames, HEIGHT, WIDTH, 3), dtype=np.uint8)
    warm_up = int(rng.integers(WARM_UP[0], WARM_UP[1] + 1))
    move, until = moves[0], 0
    for frame in range(warm_up + num_frames):
        if frame == until:
            move, until = moves[rng.integers(len(moves))], frame + int(rng.integers(HELD[0], HELD[1] + 1))
        shown = frame >= warm_up
        game.set_action(move)
        game.advance_action(TICS, shown)  # what is not kept is not drawn
        if game.is_episode_finished():
            return None
        if shown:
            frames[frame - warm_up] = game.get_state().screen_buffer
    return frames


VIZDOOM = Recorder(
    name="vizdoom",
    version=1,
    records="first-person video of a random player in ten scenarios of ViZDoom; shows blood",
    licence="MIT (scenarios of ViZDoom), BSD-3-Clause (levels, pictures and sprites of Freedoom)",
    notice="Drawn by ViZDoom, Farama Foundation and contributors, with Freedoom, copyright Contributors to the Freedoom project.",
    package="vizdoom",
    extra="games",
    classes=SCENARIOS,
    height=HEIGHT,
    width=WIDTH,
    num_frames=16,
    fps=TICS_PER_S / TICS,
    has_state=False,
    open=_opened,
)
