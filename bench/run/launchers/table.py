"""The launchers there are: ours, and those that other distributions register as "unet_vs_dit.launchers". Knows no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from bench.data.frozen import explain
from bench.data.registry import Registry
from bench.run.launchers.contract import Launcher, LauncherKind
from bench.run.launchers.local import LOCAL
from bench.run.launchers.ray import RAY
from bench.run.launchers.slurm import SLURM
from bench.shapes import Refusal

LAUNCHERS: Registry[LauncherKind] = Registry("launcher", "unet_vs_dit.launchers", (LOCAL, SLURM, RAY))


def launcher(name: str = LOCAL.name, settings: Sequence[str] = (), options: Mapping[str, Any] = MappingProxyType({})) -> Launcher:
    """The launcher `name` with its options, and `settings` over them: KEY=VALUE or .yaml files, later ones win. Refusal for others."""
    kind = LAUNCHERS.find(name)
    given: dict[str, Any] = dict(options)
    for setting in settings:
        given |= _read(setting)
    try:
        own = kind.options.model_validate(given)
    except ValidationError as error:
        raise Refusal(f"--on {name}: {explain(error, kind.options)}") from error
    return kind.make(own)


def _read(setting: str) -> dict[str, Any]:
    """Options of a KEY=VALUE or of a file."""
    key, equals, _ = setting.partition("=")
    path = Path(setting)
    try:
        if equals and key.replace(".", "").isidentifier():
            found: Any = OmegaConf.from_dotlist([setting])
        elif path.suffix in (".yaml", ".yml"):
            found = OmegaConf.load(path)
        else:
            raise Refusal(f"--with {setting!r} is neither KEY=VALUE, such as time=240, nor a .yaml file of them")
        content = OmegaConf.to_container(found, resolve=True)
    except FileNotFoundError as error:
        raise Refusal(f"--with {setting}: there is no such file") from error
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise Refusal(f"--with {setting}: not readable ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(content, dict):
        raise Refusal(f"--with {setting}: expected a mapping of options, such as {{time: 240}}")
    return {str(key): value for key, value in content.items()}
