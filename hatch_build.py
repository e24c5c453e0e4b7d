"""Hatchling's hooks: one adds built parts to wheels and editable installs, the other the README for package indexes.

The native core is compiled here, if there is a compiler. The decoder for browsers is taken from web/dist.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

sys.path.insert(0, str(Path(__file__).parent))
import build_core

DECODER = ("*.js", "*.wasm", "*.weights", "*.txt")
TO_OTHER_FILES = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)[^)]*\)")


class ReadmeHook(MetadataHookInterface):
    """The README as an index shows it, alone: without links to files that are not there, and without pictures."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling before it writes the metadata."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = TO_OTHER_FILES.sub(lambda link: "" if link[1] else link[2], text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


class BuiltHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles the core, or uses $VAECODEC_CORE, which was compiled for the platform of $VAECODEC_TAG."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files."""
        if version != "editable":  # which looks beside the package
            self._add_decoder(build_data)
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

    def _add_decoder(self, build_data: dict[str, Any]) -> None:
        made = Path(self.root, "web", "dist")
        found = sorted(path for pattern in DECODER for path in made.glob(pattern))
        build_data["force_include"] |= {str(path): f"vaecodec/web/dist/{path.name}" for path in found}
        if not found:
            self.app.display_warning("web/dist has not been built: this wheel has no `vaecodec view` (make web)")


def _own_platform() -> str:
    """The platform tag of this machine: what it compiles may not run on older systems."""
    from packaging.tags import sys_tags

    return next(
        tag.platform for tag in sys_tags() if "manylinux" not in tag.platform and "musllinux" not in tag.platform
    )
