"""Keys with names that a config file may change, and that file.

~/.config/advisor/tui.yaml:
    theme: textual-light
    keys: {quit: ctrl+q, copy: "y"}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import platformdirs
from textual.binding import Binding, BindingType

SCREENS = ("hardware", "models", "task", "tune", "validate", "export", "runs")
"""The screens in the order of their keys, 1 to 7."""

APP_KEYS: list[BindingType] = [
    *(
        Binding(str(n), f"go('{name}')", name.capitalize(), show=False, id=name)
        for n, name in enumerate(SCREENS, 1)
    ),
    Binding("c", "copy_command", "Copy CLI", id="copy"),
    Binding("t", "next_theme", "Theme", show=False, id="theme"),
    Binding("question_mark", "help", "Help", key_display="?", id="help"),
    Binding("ctrl+o", "jump", "Jump", show=False, priority=True, id="jump"),
    Binding("q", "quit_asking", "Quit", id="quit"),
    Binding("ctrl+q", "quit_asking", "Quit", show=False, priority=True, id="quit.ctrl"),
]


class VimKeys:
    """j, k, g and G beside the arrows."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("g", "scroll_top", "Top", show=False),
        Binding("G", "scroll_bottom", "Bottom", show=False),
        Binding("ctrl+d", "page_down", "Page down", show=False),
        Binding("ctrl+u", "page_up", "Page up", show=False),
    ]


def config_path() -> Path:
    """Where the user's keymap and theme are."""
    return platformdirs.user_config_path("advisor") / "tui.yaml"


def log_path() -> Path:
    """Where a command that was started here prints, until the run has its own logs."""
    return platformdirs.user_state_path("advisor") / "last-command.log"


def read_config(path: Path) -> tuple[dict[str, str], str | None, str | None]:
    """Keymap, theme, and what is wrong with the file, if anything."""
    if not path.exists():
        return {}, None, None
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data: Any = YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, YAMLError) as exc:
        return {}, None, f"{path}: {str(exc).splitlines()[0]}"
    if not isinstance(data, dict):
        return {}, None, f"{path}: a mapping with `theme` and `keys` is expected"
    keys, theme = data.get("keys") or {}, data.get("theme")
    known = {b.id for b in APP_KEYS if isinstance(b, Binding)}
    unknown = sorted(set(map(str, keys)) - {str(k) for k in known}) if isinstance(keys, dict) else ["keys"]
    problem = f"{path}: unknown keys {', '.join(unknown)}" if unknown else None
    chosen = {str(k): str(v) for k, v in keys.items() if k in known} if isinstance(keys, dict) else {}
    return chosen, str(theme) if theme else None, problem
