"""Formats results as text for people and as JSON fields for programs."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from vaecodec.cli.batch import Report, printable
from vaecodec.cli.outputs import Job
from vaecodec.format.records import Info

if TYPE_CHECKING:
    from vaecodec.cli.conversion import Product


def of_job(job: Job, product: "Product | None", *, verbosity: int, is_planned: bool = False) -> Report:
    """Returns the report on an output. Without a product the output was skipped or planned, as requested."""
    arrow = f"{printable(job.source)} -> {printable(job.target)}"
    if product is None:
        status = "skipped" if job.is_skipped else "planned"
        return Report(status, f"{arrow}  {status}", {"output": job.target})
    if product.is_left_out:
        facts = {"output": job.target, "reason": "would grow"} | product.facts
        return Report("skipped", f"{arrow}  skipped: would grow; {_product_text(product.facts, verbosity)}",
                      {**facts, "output_bytes": facts["input_bytes"]})  # fmt: skip
    facts = {"output": job.target} | product.facts
    text = f"{arrow}  {_product_text(product.facts, verbosity)}"
    if is_planned:
        return Report("planned", f"{text}, planned", facts)
    if product.damage is None:
        return Report("done", text, facts)
    facts |= {"code": product.damage.code, "message": str(product.damage)}
    return Report("damaged", f"{text}; damaged: {product.damage} [{product.damage.code}]", facts, product.damage)


def of_info(path: str, found: Info) -> Report:
    """Returns the report on the contents of a .vaec file."""
    header = found.header
    modes = Counter(entry.mode.name.lower() for entry in found.index)
    facts = {
        "width": header.width,
        "height": header.height,
        "mode": header.pixel_format.mode,
        "quality": header.quality,
        "file_bytes": found.file_bytes,
        "bpp": round(8 * found.file_bytes / (header.width * header.height), 4),
        "model_id": header.model_id.hex(),
        "tile_size_px": header.tile_size,
        "tiles": dict(modes),
        **({"external_model": found.external} if found.external else {}),
        "metadata_bytes": {name: len(data) for name, data in found.metadata.items()},
    }
    tiles = ", ".join(f"{count} {mode}" for mode, count in modes.items())
    metadata = ", ".join(f"{name} {len(data):,} bytes" for name, data in found.metadata.items())
    lines = (
        printable(path),
        f"{header.width} x {header.height} {facts['mode']}, quality {header.quality}",
        f"{found.file_bytes:,} bytes, {facts['bpp']:.3f} bpp",
        f"model {found.external or facts['model_id']}, tiles of {header.tile_size} px: {tiles}",
        f"metadata: {metadata or 'none'}",
    )
    return Report("ok", "\n  ".join(lines), facts)


def of_comparison(path: str, facts: dict[str, Any]) -> Report:
    """Returns the report on a comparison with the reference."""
    parts = [_decibels(facts["psnr_db"])]
    parts += [f"MS-SSIM {facts['ms_ssim']:.5f}"] if facts["ms_ssim"] is not None else []
    parts += [f"SSIMULACRA2 {facts['ssimulacra2']:.2f}"] if facts["ssimulacra2"] is not None else []
    return Report("ok", f"{printable(path)}  {', '.join(parts)}, {facts['bpp']:.3f} bpp", facts)


def _product_text(facts: dict[str, Any], verbosity: int) -> str:
    before = f"{facts['input_bytes']:,} -> " if "input_bytes" in facts else ""
    change = f" ({facts['output_bytes'] / facts['input_bytes'] - 1:+.0%})" if facts.get("input_bytes") else ""
    parts = [f"{facts['width']} x {facts['height']}", f"{before}{facts['output_bytes']:,} bytes{change}"]
    if "quality" in facts:
        parts += [f"{facts['bpp']:.3f} bpp", f"quality {facts['quality']}{_why(facts)}"]
    if "psnr_db" in facts:
        parts += [_decibels(facts["psnr_db"])]
    if verbosity:
        parts += [f"{facts['seconds']:.2f} s"]
    return ", ".join(parts)


def _why(facts: dict[str, Any]) -> str:
    """The reason for an automatic quality, for a lossy source."""
    if "source_format" not in facts:
        return ""
    known = f" {facts['source_quality']}" if facts["source_quality"] is not None else ""
    return f" (auto: the source is {facts['source_format']}{known})"


def _decibels(psnr_db: float | None) -> str:
    return "identical" if psnr_db is None else f"{psnr_db:.2f} dB"
