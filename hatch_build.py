"""Hatchling's build hook: compiles the native core into wheels and editable installs, if there is a compiler."""

import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))
import build_core


class CoreHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles the core, or uses $VAECODEC_CORE, which was compiled for the platform of $VAECODEC_TAG."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files."""
        place = build_core.FOLDER.relative_to(self.root)
        if made := os.environ.get("VAECODEC_CORE"):
            build_data["force_include"][made] = str(place / Path(made).name)
            build_data["tag"] = f"py3-none-{os.environ['VAECODEC_TAG']}"
        elif problem := build_core.build_in_place():
            self.app.display_warning(problem)
            return
        else:
            build_data["artifacts"].append(str(place / build_core.library_name()))
            build_data["tag"] = f"py3-none-{_own_platform()}"
        build_data["pure_python"] = False


def _own_platform() -> str:
    """The platform tag of this machine: what it compiles may not run on older systems."""
    from packaging.tags import sys_tags

    return next(
        tag.platform for tag in sys_tags() if "manylinux" not in tag.platform and "musllinux" not in tag.platform
    )
