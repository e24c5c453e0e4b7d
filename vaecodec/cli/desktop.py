"""The desktop commands: view, thumbnail and desktop. See `viewer` (the server) and `installation` (of files)."""

import mimetypes
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaecodec.cli.batch import Console, InputError, OutputError, Report, Task, exit_code, printable, reading, run
from vaecodec.cli.options import console_options, max_pixels_option
from vaecodec.cli.outputs import STDIO, Job, Placement, expand, plan, write_output
from vaecodec.errors import VaecError

if TYPE_CHECKING:
    from vaecodec.cli.conversion import Product

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="FILE...")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option("--until-closed", is_flag=True, help="Exit when the page is closed, or was not opened within a minute.")
@console_options
@click.pass_context
def view(ctx: click.Context, /, inputs: tuple[str, ...], no_browser: bool, until_closed: bool) -> None:
    """Show .vaec files in the browser: zoom, bytes, and originals to compare with.

    Serves only the viewer and the given files, and only to this machine. Pictures in other formats are the originals of
    .vaec files with the same name, in the same folder if several have that name.
    """
    from vaecodec.cli.viewer import ViewerServer, is_vaec, web_folder

    console = ctx.ensure_object(Console)
    paths = []
    for found in (each for argument in inputs for each in expand(argument)):
        try:
            if found.refused:
                raise found.refused
            paths.append(_readable(found.source))
        except InputError as error:
            console.fail({"path": found.source}, error)
            ctx.exit(exit_code([error], 1))
    if not any(map(is_vaec, paths)):
        nothing = InputError("nothing to show: give a .vaec file, too (other pictures are compared with one)")
        console.fail({"path": paths[0]}, nothing)
        ctx.exit(exit_code([nothing], 1))
    try:
        server = ViewerServer(paths, web_folder(), ends_with_page=until_closed)
    except OSError as error:  # includes VaecError
        console.fail({"path": "viewer"}, error)
        ctx.exit(exit_code([error], 1))
    with server:
        report = Report("serving", server.url, {"url": server.url, "files": len(paths)})
        console.report({"path": "viewer"}, report, is_answer=True, warned=())
        if not no_browser:
            click.launch(server.url)
        server.serve_forever()


def _readable(path: str) -> str:
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe could block forever
        raise InputError("is not a file")
    with reading(), open(path, "rb"):
        return path


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option(
    "--size", "size_px", type=click.IntRange(1, 4096), default=256, show_default=True, metavar="PX",
    help="Longest side of the thumbnail.",
)  # fmt: skip
@click.option("-f", "--force", is_flag=True, help="Overwrite OUT even if it is no PNG.")
@max_pixels_option
@console_options
@click.pass_context
def thumbnail(ctx: click.Context, /, source: str, target: str, size_px: int, force: bool, max_pixels: int) -> None:
    """Make a small upright PNG of a .vaec file, for file managers; OUT may be a folder.

    Overwrites an older PNG. Large pictures are decoded at 1/8, even if OUT is then up to a quarter smaller than --size.
    """
    from vaecodec.cli import conversion
    from vaecodec.codec import Codec

    # `_check_thumbnail` decides what may be overwritten.
    place = Placement(".png", lambda _: False, lambda _: False, output=target, force=True, has_recursive=False)
    kept = frozenset({"icc_profile"})
    options = conversion.DecodeOptions(
        "PNG", kept=kept, max_pixels=max_pixels, is_upright=True, fit_px=size_px, is_thumbnail=True
    )

    def finish(job: Job, product: "Product") -> Report:
        with product.content:
            write_output(job, product.content, overwrite=True)
        facts = product.facts
        return Report("done", f"{printable(job.target)}  {facts['width']} x {facts['height']}", facts)

    def compute(job: Job) -> "Product":
        if job.refused:
            raise job.refused
        _check_thumbnail(job.target, force=force)
        if job.source != STDIO:
            _readable(job.source)
        return conversion.decode(Codec(device="cpu"), options, job.source, job.target)

    task = Task(lambda job: job.source, compute, finish)
    ctx.exit(run(plan([source], place), task, console=ctx.ensure_object(Console)))


def _check_thumbnail(target: str, *, force: bool) -> None:
    """Refuses names of other formats, and to overwrite a file that is neither a PNG nor empty.

    File managers make an empty file first, with any name that none of the formats has.
    """
    known, _ = mimetypes.guess_type(target)
    if target.lower().endswith(".vaec") or known not in (None, "image/png"):
        raise OutputError(f"thumbnails are PNG files: give a name that ends in .png, not {printable(target)}")
    if force or not os.path.isfile(target):
        return
    with open(target, "rb") as file:
        if file.read(len(PNG_SIGNATURE)) not in (b"", PNG_SIGNATURE):
            raise OutputError(f"{printable(target)} exists and is no PNG: use -f to overwrite it", code="EXISTS")


@click.command()
@click.option("--install", "installs", is_flag=True, help="Install or update.")
@click.option("--uninstall", "removes", is_flag=True, help="Remove what --install installed, and nothing else.")
@console_options
@click.pass_context
def desktop(ctx: click.Context, /, installs: bool, removes: bool) -> None:
    """Integrate .vaec files into your desktop: file type, thumbnails, and the viewer on a double click.

    Works on desktops that follow freedesktop.org, such as those of Linux; needs no root. Files go to $XDG_DATA_HOME or
    ~/.local/share.
    """
    from vaecodec.cli import installation

    if installs == removes:
        raise click.UsageError("give either --install or --uninstall")

    def change(home: Path) -> list[str]:
        try:
            return installation.install(home) if installs else installation.uninstall(home)
        except VaecError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write {printable(str(error.filename))}: {error.strerror}") from error

    def tell(home: Path, notes: list[str]) -> Report:
        lines = [f"{'installed' if installs else 'uninstalled'} in {printable(str(home))}", *notes]
        return Report("done", "\n  ".join(lines), {"notes": notes})

    task = Task(str, change, tell, answers=True)
    ctx.exit(run([installation.data_home()], task, console=ctx.ensure_object(Console)))
