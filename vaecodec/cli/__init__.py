"""The command line, a thin face of the package. `main` is the entry point; `commands` is where to start reading."""

from vaecodec.cli.commands import main
from vaecodec.cli.desktop import desktop as _desktop
from vaecodec.cli.desktop import thumbnail as _thumbnail
from vaecodec.cli.desktop import view as _view
from vaecodec.cli.train import train as _train
from vaecodec.cli.transcode import transcode as _transcode
from vaecodec.cli.uses import html as _html
from vaecodec.cli.uses import rate_map as _rate_map
from vaecodec.cli.uses import sample as _sample

for _command in (_train, _transcode, _sample, _rate_map, _html, _view, _thumbnail, _desktop):
    main.add_command(_command)

__all__ = ["main"]
